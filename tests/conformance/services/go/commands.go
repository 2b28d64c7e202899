package main

import (
	"os"
	"strings"
	"time"

	restate "github.com/restatedev/sdk-go"
)

type command struct {
	Type   string    `json:"type"`
	Of     []command `json:"of"`
	Name   string    `json:"name"`
	Value  string    `json:"value"`
	Reason string    `json:"reason"`
	Ms     int64     `json:"ms"`
}

// Something that was begun, and its result as a text.
type begun struct {
	future restate.Future
	result func() (string, restate.TerminalError)
}

func begin(ctx restate.ObjectContext, what command) begun {
	switch what.Type {
	case "awakeable":
		awakeable := restate.Awakeable[string](ctx)
		restate.Set(ctx, "awakeable-"+what.Name, awakeable.Id())
		return begun{awakeable, awakeable.Result}
	case "sleep":
		after := restate.After(ctx, millis(what.Ms))
		return begun{after, func() (string, restate.TerminalError) { return "slept", after.Done() }}
	case "run":
		run := restate.RunAsync(ctx, func(restate.RunContext) (string, error) {
			time.Sleep(time.Millisecond)
			return what.Value, nil
		})
		return begun{run, run.Result}
	case "failingRun":
		run := restate.RunAsync(ctx, func(restate.RunContext) (string, error) {
			return "", restate.TerminalErrorf("%s", what.Reason)
		})
		return begun{run, run.Result}
	default:
		signal := restate.Signal[string](ctx, what.Name)
		return begun{signal, signal.Result}
	}
}

func execute(ctx restate.ObjectContext, what command) (string, error) {
	started := []begun{}
	futures := []restate.Future{}
	for _, each := range what.Of {
		one := begin(ctx, each)
		started = append(started, one)
		futures = append(futures, one.future)
	}
	resultOf := func(future restate.Future) (string, restate.TerminalError) {
		for _, one := range started {
			if one.future == future {
				return one.result()
			}
		}
		return "", restate.TerminalErrorf("nobody began this")
	}
	switch what.Type {
	case "one":
		value, err := started[0].result()
		return value, plain(err)
	case "first":
		first, err := restate.WaitFirst(ctx, futures...)
		if err != nil {
			return "", err
		}
		value, err := resultOf(first)
		return value, plain(err)
	case "firstSuccess":
		var last error
		for future, err := range restate.Wait(ctx, futures...) {
			if err != nil {
				return "", err
			}
			value, err := resultOf(future)
			if err == nil {
				return value, nil
			}
			last = err
		}
		return "", last
	case "all", "settled":
		for future, err := range restate.Wait(ctx, futures...) {
			if err != nil {
				return "", err
			}
			if _, err := resultOf(future); err != nil && what.Type == "all" {
				return "", err
			}
		}
		values := []string{}
		for _, one := range started {
			value, err := one.result()
			switch {
			case what.Type == "all":
				values = append(values, value)
			case err == nil:
				values = append(values, "ok:"+value)
			default:
				values = append(values, "err:"+err.Message())
			}
		}
		return strings.Join(values, "|"), nil
	case "timeout":
		awakeable := begin(ctx, command{Type: "awakeable", Name: what.Name})
		first, err := restate.WaitFirst(ctx, awakeable.future, restate.After(ctx, millis(what.Ms)))
		if err != nil {
			return "", err
		}
		if first != awakeable.future {
			return "", restate.TerminalErrorf("timed out")
		}
		value, err := awakeable.result()
		return value, plain(err)
	case "environment":
		value, err := restate.Run(ctx, func(restate.RunContext) (string, error) { return os.Getenv(what.Name), nil })
		return value, plain(err)
	default:
		return "", restate.TerminalErrorf("no command %s", what.Type)
	}
}

func awakeableOf(ctx restate.ObjectSharedContext, name string) (string, error) {
	id, err := get[string](ctx, "awakeable-"+name)
	if err == nil && id == "" {
		err = restate.TerminalErrorf("no awakeable %s yet", name)
	}
	return id, err
}

func commands() restate.ServiceDefinition {
	return restate.NewObject("Commands").
		Handler("run", restate.NewObjectHandler(func(ctx restate.ObjectContext, program []command) (string, error) {
			result := ""
			for _, each := range program {
				var err error
				if result, err = execute(ctx, each); err != nil {
					return "", err
				}
				results, err := get[[]string](ctx, "results")
				if err != nil {
					return "", err
				}
				restate.Set(ctx, "results", append(results, result))
			}
			return result, nil
		})).
		Handler("results", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) ([]string, error) {
			return get[[]string](ctx, "results")
		})).
		Handler("has", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, name string) (bool, error) {
			id, err := get[string](ctx, "awakeable-"+name)
			return id != "", err
		})).
		Handler("resolve", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, by command) (void, error) {
			id, err := awakeableOf(ctx, by.Name)
			if err != nil {
				return void{}, err
			}
			restate.ResolveAwakeable(ctx, id, by.Value)
			return void{}, nil
		})).
		Handler("reject", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, by command) (void, error) {
			id, err := awakeableOf(ctx, by.Name)
			if err != nil {
				return void{}, err
			}
			restate.RejectAwakeable(ctx, id, restate.TerminalErrorf("%s", by.Reason))
			return void{}, nil
		}))
}
