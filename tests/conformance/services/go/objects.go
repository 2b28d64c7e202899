package main

import (
	"slices"
	"strings"

	restate "github.com/restatedev/sdk-go"
)

type change struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

type slow struct {
	Amount int64 `json:"amount"`
	Ms     int64 `json:"ms"`
}

type entry struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func get[T any](ctx restate.ObjectSharedContext, name string) (T, error) {
	value, err := restate.Get[T](ctx, name)
	if err != nil {
		return value, err
	}
	return value, nil
}

func sortedKeys(ctx restate.ObjectSharedContext) ([]string, error) {
	names, err := restate.Keys(ctx)
	if err != nil {
		return nil, err
	}
	if names == nil {
		names = []string{}
	}
	slices.Sort(names)
	return names, nil
}

func counter() restate.ServiceDefinition {
	return restate.NewObject("Counter").
		Handler("add", restate.NewObjectHandler(func(ctx restate.ObjectContext, amount int64) (change, error) {
			before, err := get[int64](ctx, "count")
			if err != nil {
				return change{}, err
			}
			restate.Set(ctx, "count", before+amount)
			return change{before, before + amount}, nil
		})).
		Handler("slowAdd", restate.NewObjectHandler(func(ctx restate.ObjectContext, slow slow) (change, error) {
			before, err := get[int64](ctx, "count")
			if err != nil {
				return change{}, err
			}
			if err := restate.Sleep(ctx, millis(slow.Ms)); err != nil {
				return change{}, err
			}
			restate.Set(ctx, "count", before+slow.Amount)
			return change{before, before + slow.Amount}, nil
		})).
		Handler("addThenFail", restate.NewObjectHandler(func(ctx restate.ObjectContext, amount int64) (void, error) {
			before, err := get[int64](ctx, "count")
			if err != nil {
				return void{}, err
			}
			restate.Set(ctx, "count", before+amount)
			return void{}, restate.TerminalErrorf("%s", restate.Key(ctx))
		})).
		Handler("reset", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			restate.Clear(ctx, "count")
			return void{}, nil
		})).
		Handler("get", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) (int64, error) {
			return get[int64](ctx, "count")
		})).
		Handler("ownKey", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) (string, error) {
			return restate.Key(ctx), nil
		}))
}

func entries() restate.ServiceDefinition {
	return restate.NewObject("Map").
		Handler("put", restate.NewObjectHandler(func(ctx restate.ObjectContext, entry entry) (void, error) {
			restate.Set(ctx, entry.Name, entry.Value)
			return void{}, nil
		})).
		Handler("read", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, name string) (string, error) {
			return get[string](ctx, name)
		})).
		Handler("names", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) ([]string, error) {
			return sortedKeys(ctx)
		})).
		Handler("forget", restate.NewObjectHandler(func(ctx restate.ObjectContext, name string) (void, error) {
			restate.Clear(ctx, name)
			return void{}, nil
		})).
		Handler("clear", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) ([]entry, error) {
			names, err := sortedKeys(ctx)
			if err != nil {
				return nil, err
			}
			found := []entry{}
			for _, name := range names {
				value, err := get[string](ctx, name)
				if err != nil {
					return nil, err
				}
				found = append(found, entry{name, value})
			}
			restate.ClearAll(ctx)
			return found, nil
		})).
		Handler("juggle", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) ([]string, error) {
			seen := []string{}
			see := func(name string) error {
				value, err := get[*string](ctx, name)
				if err != nil {
					return err
				}
				if value == nil {
					seen = append(seen, "none")
				} else {
					seen = append(seen, *value)
				}
				return nil
			}
			restate.Set(ctx, "a", "1")
			if err := see("a"); err != nil {
				return nil, err
			}
			restate.Set(ctx, "b", "2")
			restate.Clear(ctx, "a")
			if err := see("a"); err != nil {
				return nil, err
			}
			restate.ClearAll(ctx)
			if err := see("b"); err != nil {
				return nil, err
			}
			names, err := sortedKeys(ctx)
			if err != nil {
				return nil, err
			}
			seen = append(seen, strings.Join(names, ","))
			restate.Set(ctx, "c", "3")
			if err := see("c"); err != nil {
				return nil, err
			}
			return seen, nil
		}))
}

func list() restate.ServiceDefinition {
	return restate.NewObject("List").
		Handler("append", restate.NewObjectHandler(func(ctx restate.ObjectContext, text string) (void, error) {
			list, err := get[[]string](ctx, "list")
			if err != nil {
				return void{}, err
			}
			restate.Set(ctx, "list", append(list, text))
			return void{}, nil
		})).
		Handler("get", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) ([]string, error) {
			list, err := get[[]string](ctx, "list")
			return append([]string{}, list...), err
		})).
		Handler("clear", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) ([]string, error) {
			list, err := get[[]string](ctx, "list")
			if err != nil {
				return nil, err
			}
			restate.Clear(ctx, "list")
			return append([]string{}, list...), nil
		}))
}

func held(ctx restate.ObjectContext) (string, error) {
	id, err := get[string](ctx, "id")
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", restate.TerminalErrorf("nothing is held")
	}
	restate.Clear(ctx, "id")
	return id, nil
}

func holder() restate.ServiceDefinition {
	return restate.NewObject("Holder").
		Handler("hold", restate.NewObjectHandler(func(ctx restate.ObjectContext, id string) (void, error) {
			restate.Set(ctx, "id", id)
			return void{}, nil
		})).
		Handler("holds", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) (string, error) {
			return get[string](ctx, "id")
		})).
		Handler("release", restate.NewObjectHandler(func(ctx restate.ObjectContext, payload string) (void, error) {
			id, err := held(ctx)
			if err != nil {
				return void{}, err
			}
			restate.ResolveAwakeable(ctx, id, payload)
			return void{}, nil
		})).
		Handler("refuse", restate.NewObjectHandler(func(ctx restate.ObjectContext, reason string) (void, error) {
			id, err := held(ctx)
			if err != nil {
				return void{}, err
			}
			restate.RejectAwakeable(ctx, id, restate.TerminalErrorf("%s", reason))
			return void{}, nil
		})).
		Handler("waitHeld", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) (string, error) {
			awakeable := restate.Awakeable[string](ctx)
			restate.ObjectSend(ctx, "Holder", restate.Key(ctx), "hold").Send(awakeable.Id())
			value, err := awakeable.Result()
			if err != nil {
				return "", err
			}
			return "got " + value, nil
		}))
}

func gate() restate.ServiceDefinition {
	return restate.NewWorkflow("Gate").
		Handler("run", restate.NewWorkflowHandler(func(ctx restate.WorkflowContext, input string) (string, error) {
			restate.Set(ctx, "status", "waiting")
			value, err := restate.Promise[string](ctx, "gate").Result()
			if err != nil {
				return "", err
			}
			restate.Set(ctx, "status", "through")
			return input + " " + value, nil
		})).
		Handler("open", restate.NewWorkflowSharedHandler(func(ctx restate.WorkflowSharedContext, value string) (void, error) {
			if err := restate.Promise[string](ctx, "gate").Resolve(value); err != nil {
				return void{}, err
			}
			return void{}, nil
		})).
		Handler("shut", restate.NewWorkflowSharedHandler(func(ctx restate.WorkflowSharedContext, reason string) (void, error) {
			if err := restate.Promise[string](ctx, "gate").Reject(restate.TerminalErrorf("%s", reason)); err != nil {
				return void{}, err
			}
			return void{}, nil
		})).
		Handler("peek", restate.NewWorkflowSharedHandler(func(ctx restate.WorkflowSharedContext, _ void) (string, error) {
			value, err := restate.Promise[string](ctx, "gate").Peek()
			if err != nil {
				return "", err
			}
			return value, nil
		})).
		Handler("wait", restate.NewWorkflowSharedHandler(func(ctx restate.WorkflowSharedContext, _ void) (string, error) {
			value, err := restate.Promise[string](ctx, "gate").Result()
			if err != nil {
				return "", err
			}
			return value, nil
		})).
		Handler("status", restate.NewWorkflowSharedHandler(func(ctx restate.WorkflowSharedContext, _ void) (string, error) {
			return get[string](ctx, "status")
		}))
}
