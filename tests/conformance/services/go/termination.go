package main

import (
	"time"

	restate "github.com/restatedev/sdk-go"
)

// A TerminalError that is nil is no nil error.
func plain(err restate.TerminalError) error {
	if err == nil {
		return nil
	}
	return err
}

func cancelRunner() restate.ServiceDefinition {
	return restate.NewObject("CancelRunner").
		Handler("start", restate.NewObjectHandler(func(ctx restate.ObjectContext, operation string) (void, error) {
			_, err := restate.Object[void](ctx, "CancelBlocker", restate.Key(ctx), "block").Request(operation)
			if err != nil && err.Code() == 409 {
				restate.Set(ctx, "cancelled", true)
				return void{}, nil
			}
			return void{}, plain(err)
		})).
		Handler("wasCancelled", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (bool, error) {
			return get[bool](ctx, "cancelled")
		}))
}

func cancelBlocker() restate.ServiceDefinition {
	return restate.NewObject("CancelBlocker").
		Handler("block", restate.NewObjectHandler(func(ctx restate.ObjectContext, operation string) (void, error) {
			awakeable := restate.Awakeable[string](ctx)
			if _, err := restate.Object[void](ctx, "Holder", restate.Key(ctx), "hold").Request(awakeable.Id()); err != nil {
				return void{}, err
			}
			if _, err := awakeable.Result(); err != nil {
				return void{}, err
			}
			return void{}, block(ctx, operation)
		})).
		Handler("unlocked", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			return void{}, nil
		}))
}

func block(ctx restate.ObjectContext, operation string) error {
	switch operation {
	case "call":
		_, err := restate.Object[void](ctx, "CancelBlocker", restate.Key(ctx), "block").Request(operation)
		return plain(err)
	case "sleep":
		return plain(restate.Sleep(ctx, time.Hour))
	case "awakeable":
		_, err := restate.Awakeable[string](ctx).Result()
		return plain(err)
	case "signal":
		_, err := restate.Signal[string](ctx, "never").Result()
		return plain(err)
	case "race":
		_, err := restate.WaitFirst(ctx,
			restate.After(ctx, time.Hour), restate.Awakeable[string](ctx), restate.Signal[string](ctx, "never"))
		return plain(err)
	case "attach":
		_, err := restate.AttachInvocation[string](ctx, ctx.Request().ID).Response()
		return plain(err)
	default:
		return restate.TerminalErrorf("no operation %s", operation)
	}
}

func killRunner() restate.ServiceDefinition {
	return restate.NewObject("KillRunner").
		Handler("start", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			_, err := restate.Object[void](ctx, "KillChain", restate.Key(ctx), "recurse").Request(void{})
			return void{}, plain(err)
		}))
}

func killChain() restate.ServiceDefinition {
	return restate.NewObject("KillChain").
		Handler("recurse", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			awakeable := restate.Awakeable[string](ctx)
			restate.ObjectSend(ctx, "Holder", restate.Key(ctx), "hold").Send(awakeable.Id())
			if _, err := awakeable.Result(); err != nil {
				return void{}, err
			}
			_, err := restate.Object[void](ctx, "KillChain", restate.Key(ctx), "recurse").Request(void{})
			return void{}, plain(err)
		})).
		Handler("unlocked", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			return void{}, nil
		}))
}
