package main

import (
	"errors"
	"fmt"
	"math/rand"
	"time"

	restate "github.com/restatedev/sdk-go"
)

type op struct {
	Op      string `json:"op"`
	Key     any    `json:"key,omitempty"`
	Ms      int64  `json:"ms,omitempty"`
	Index   int    `json:"index,omitempty"`
	Program []op   `json:"program,omitempty"`
}

type later struct {
	Ms   int64  `json:"ms"`
	Text string `json:"text"`
}

type partner struct {
	Key string `json:"key"`
	ID  string `json:"id"`
}

// What was begun: how to wait for it, and what must come of it; a failure where that is nil.
type expected struct {
	result func() (string, restate.TerminalError)
	value  *string
}

func check(holds bool, format string, a ...any) error {
	if holds {
		return nil
	}
	return restate.TerminalErrorf(format, a...)
}

func increment(ctx restate.Context, key string) {
	restate.ObjectSend(ctx, "Fuzz", key, "interpret").Send([]op{{Op: "increment"}})
}

func step(ctx restate.ObjectContext, index int, op op, begun map[int]expected) error {
	helper := func(handler string) restate.Client[any, string] {
		return restate.Service[string](ctx, "FuzzHelper", handler)
	}
	later_ := func(handler string) restate.SendClient[any] { return restate.ServiceSend(ctx, "FuzzHelper", handler) }
	echo, resolved, done := fmt.Sprintf("echo-%d", index), "resolved", "done"
	name := fmt.Sprintf("key-%v", op.Key)
	switch op.Op {
	case "set":
		restate.Set(ctx, name, fmt.Sprintf("value-%v", op.Key))
	case "get":
		value, err := restate.Get[string](ctx, name)
		if err != nil {
			return err
		}
		return check(value == "" || value == fmt.Sprintf("value-%v", op.Key), "read %s", value)
	case "clear":
		restate.Clear(ctx, name)
	case "increment":
		counter, err := restate.Get[int64](ctx, "counter")
		if err != nil {
			return err
		}
		restate.Set(ctx, "counter", counter+1)
	case "incrementLater":
		later_("increment").Send(restate.Key(ctx), restate.WithDelay(millis(op.Ms)))
	case "sleep":
		return plain(restate.Sleep(ctx, millis(op.Ms)))
	case "run":
		value, err := restate.Run(ctx, func(restate.RunContext) (string, error) { return fmt.Sprintf("run-%d", index), nil })
		if err != nil {
			return err
		}
		return check(value == fmt.Sprintf("run-%d", index), "a run changed its result")
	case "slowRun":
		return plain(restate.RunVoid(ctx, func(restate.RunContext) error {
			time.Sleep(time.Millisecond)
			return nil
		}))
	case "flakyRun":
		return plain(restate.RunVoid(ctx, func(restate.RunContext) error {
			if rand.Intn(2) == 0 {
				return errors.New("fails on purpose")
			}
			return nil
		}))
	case "caughtCall":
		_, err := helper("fail").Request(void{})
		return check(err != nil && err.Message() == "always fails", "%v", err)
	case "call":
		begun[index] = expected{helper("echo").RequestFuture(echo).Response, &echo}
	case "slowCall":
		begun[index] = expected{helper("echoLater").RequestFuture(later{op.Ms, echo}).Response, &echo}
	case "failingCall":
		begun[index] = expected{helper("fail").RequestFuture(void{}).Response, nil}
	case "awakeable":
		awakeable := restate.Awakeable[string](ctx)
		later_("resolve").Send(awakeable.Id())
		begun[index] = expected{awakeable.Result, &resolved}
	case "rejectedAwakeable":
		awakeable := restate.Awakeable[string](ctx)
		later_("reject").Send(awakeable.Id())
		begun[index] = expected{awakeable.Result, nil}
	case "dance":
		awakeable := restate.Awakeable[string](ctx)
		later_("dance").Send(partner{restate.Key(ctx), awakeable.Id()})
		theirs, err := awakeable.Result()
		if err != nil {
			return err
		}
		restate.ResolveAwakeable(ctx, theirs, "go")
	case "nested":
		call := restate.Object[string](ctx, "Fuzz", op.Key.(string), "interpret").RequestFuture(op.Program)
		begun[index] = expected{call.Response, &done}
	case "await":
		awaited := begun[op.Index]
		delete(begun, op.Index)
		value, err := awaited.result()
		if awaited.value == nil {
			return check(err != nil, "command %d succeeded", op.Index)
		}
		if err != nil {
			return err
		}
		return check(value == *awaited.value, "command %d: %s instead of %s", op.Index, value, *awaited.value)
	default:
		return restate.TerminalErrorf("no command %s", op.Op)
	}
	return nil
}

func fuzz() restate.ServiceDefinition {
	return restate.NewObject("Fuzz").
		Handler("counter", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) (int64, error) {
			return get[int64](ctx, "counter")
		})).
		Handler("interpret", restate.NewObjectHandler(func(ctx restate.ObjectContext, program []op) (string, error) {
			begun := map[int]expected{}
			for index, each := range program {
				if err := step(ctx, index, each, begun); err != nil {
					return "", err
				}
			}
			return "done", nil
		}))
}

func fuzzHelper() restate.ServiceDefinition {
	return restate.NewService("FuzzHelper").
		Handler("echo", restate.NewServiceHandler(func(ctx restate.Context, text string) (string, error) {
			return text, nil
		})).
		Handler("echoLater", restate.NewServiceHandler(func(ctx restate.Context, later later) (string, error) {
			return later.Text, plain(restate.Sleep(ctx, millis(later.Ms)))
		})).
		Handler("fail", restate.NewServiceHandler(func(ctx restate.Context, _ void) (string, error) {
			return "", restate.TerminalErrorf("always fails")
		})).
		Handler("increment", restate.NewServiceHandler(func(ctx restate.Context, key string) (void, error) {
			increment(ctx, key)
			return void{}, nil
		})).
		Handler("resolve", restate.NewServiceHandler(func(ctx restate.Context, id string) (void, error) {
			restate.ResolveAwakeable(ctx, id, "resolved")
			return void{}, nil
		})).
		Handler("reject", restate.NewServiceHandler(func(ctx restate.Context, id string) (void, error) {
			restate.RejectAwakeable(ctx, id, restate.TerminalErrorf("rejected on purpose"))
			return void{}, nil
		})).
		Handler("dance", restate.NewServiceHandler(func(ctx restate.Context, with partner) (void, error) {
			awakeable := restate.Awakeable[string](ctx)
			restate.ResolveAwakeable(ctx, with.ID, awakeable.Id())
			if _, err := awakeable.Result(); err != nil {
				return void{}, err
			}
			increment(ctx, with.Key)
			return void{}, nil
		}))
}
