package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	restate "github.com/restatedev/sdk-go"
)

type void = restate.Void

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

type signal struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
}

type random struct {
	Same   bool     `json:"same"`
	Values []string `json:"values"`
}

func draw(ctx restate.Context) []string {
	return []string{strconv.FormatUint(restate.Rand(ctx).Uint64(), 10), restate.UUID(ctx).String()}
}

func basics() restate.ServiceDefinition {
	return restate.NewService("Basics").
		Handler("echo", restate.NewServiceHandler(func(ctx restate.Context, text string) (string, error) {
			return text, nil
		})).
		Handler("shout", restate.NewServiceHandler(func(ctx restate.Context, text string) (string, error) {
			return strings.ToUpper(text), nil
		})).
		Handler("headers", restate.NewServiceHandler(func(ctx restate.Context, _ void) (map[string]string, error) {
			return ctx.Request().Headers.ToMap(), nil
		})).
		Handler("bytes", restate.NewServiceHandler(func(ctx restate.Context, bytes []byte) ([]byte, error) {
			return bytes, nil
		}, restate.WithBinary)).
		Handler("nothing", restate.NewServiceHandler(func(ctx restate.Context, _ void) (void, error) {
			return void{}, nil
		})).
		Handler("nap", restate.NewServiceHandler(func(ctx restate.Context, ms int64) (string, error) {
			if err := restate.Sleep(ctx, millis(ms)); err != nil {
				return "", err
			}
			return "rested", nil
		})).
		Handler("ownId", restate.NewServiceHandler(func(ctx restate.Context, _ void) (string, error) {
			return ctx.Request().ID, nil
		})).
		Handler("steps", restate.NewServiceHandler(func(ctx restate.Context, count int) ([]string, error) {
			done := []string{}
			for step := 1; step <= count; step++ {
				text, err := restate.Run(ctx, func(restate.RunContext) (string, error) {
					return fmt.Sprintf("done-%d", step), nil
				}, restate.WithName(fmt.Sprintf("step-%d", step)))
				if err != nil {
					return nil, err
				}
				done = append(done, text)
			}
			return done, nil
		})).
		Handler("countRuns", restate.NewServiceHandler(func(ctx restate.Context, count int) (int, error) {
			executed := 0
			for range count {
				if err := restate.RunVoid(ctx, func(restate.RunContext) error {
					executed++
					return nil
				}, restate.WithName("count")); err != nil {
					return 0, err
				}
			}
			return executed, nil
		})).
		Handler("random", restate.NewServiceHandler(func(ctx restate.Context, _ void) (random, error) {
			keep := func(values []string) ([]string, error) {
				return restate.Run(ctx, func(restate.RunContext) ([]string, error) { return values, nil }, restate.WithName("kept"))
			}
			before := draw(ctx)
			kept, err := keep(before)
			if err != nil {
				return random{}, err
			}
			if err := restate.Sleep(ctx, millis(20)); err != nil {
				return random{}, err
			}
			again := draw(ctx)
			keptAgain, err := keep(again)
			if err != nil {
				return random{}, err
			}
			values := append(kept, keptAgain...)
			return random{Same: fmt.Sprint(append(before, again...)) == fmt.Sprint(values), Values: values}, nil
		})).
		Handler("fanOut", restate.NewServiceHandler(func(ctx restate.Context, count int) (int, error) {
			calls := []restate.ResponseFuture[string]{}
			for call := range count {
				calls = append(calls, restate.Service[string](ctx, "Basics", "echo").RequestFuture(strconv.Itoa(call)))
			}
			sum := 0
			for _, call := range calls {
				text, err := call.Response()
				if err != nil {
					return 0, err
				}
				number, _ := strconv.Atoi(text)
				sum += number
			}
			return sum, nil
		})).
		Handler("callShout", restate.NewServiceHandler(func(ctx restate.Context, text string) (string, error) {
			answer, err := restate.Service[string](ctx, "Basics", "shout").Request(text)
			if err != nil {
				return "", err
			}
			return answer, nil
		})).
		Handler("callWithHeader", restate.NewServiceHandler(func(ctx restate.Context, value string) (string, error) {
			headers := restate.WithHeaders(map[string]string{"x-passed-on": value})
			seen, err := restate.Service[map[string]string](ctx, "Basics", "headers").Request(void{}, headers)
			if err != nil {
				return "", err
			}
			return seen["x-passed-on"], nil
		})).
		Handler("cancelOther", restate.NewServiceHandler(func(ctx restate.Context, id string) (void, error) {
			restate.CancelInvocation(ctx, id)
			return void{}, nil
		})).
		Handler("attachTo", restate.NewServiceHandler(func(ctx restate.Context, id string) (string, error) {
			text, err := restate.AttachInvocation[string](ctx, id).Response()
			if err != nil {
				return "", err
			}
			return text, nil
		})).
		Handler("waitSignal", restate.NewServiceHandler(func(ctx restate.Context, name string) (string, error) {
			text, err := restate.Signal[string](ctx, name).Result()
			if err != nil {
				return "", err
			}
			return text, nil
		})).
		Handler("collectSignals", restate.NewServiceHandler(func(ctx restate.Context, _ void) ([]string, error) {
			seen := []string{}
			for {
				next, err := restate.Signal[string](ctx, "next").Result()
				if err != nil {
					return nil, err
				}
				if next == "end" {
					return seen, nil
				}
				seen = append(seen, next)
			}
		})).
		Handler("resolveSignal", restate.NewServiceHandler(func(ctx restate.Context, by signal) (void, error) {
			restate.ResolveSignal(ctx, by.ID, by.Name, by.Value)
			return void{}, nil
		})).
		Handler("rejectSignal", restate.NewServiceHandler(func(ctx restate.Context, by signal) (void, error) {
			restate.RejectSignal(ctx, by.ID, by.Name, restate.TerminalErrorf("%s", by.Reason))
			return void{}, nil
		})).
		Handler("callAndCancel", restate.NewServiceHandler(func(ctx restate.Context, _ void) (string, error) {
			call := restate.Service[string](ctx, "Basics", "nap").RequestFuture(3_600_000)
			restate.CancelInvocation(ctx, call.GetInvocationId())
			text, err := call.Response()
			if err != nil {
				return fmt.Sprint(err.Code()), nil
			}
			return text, nil
		}))
}

type outgoing struct {
	Service        string  `json:"service"`
	Key            *string `json:"key"`
	Handler        string  `json:"handler"`
	Message        string  `json:"message"`
	DelayMs        int64   `json:"delayMs"`
	IdempotencyKey string  `json:"idempotencyKey"`
	Scope          string  `json:"scope"`
	LimitKey       string  `json:"limitKey"`
	OneWay         bool    `json:"oneWay"`
}

func (sent outgoing) client(ctx restate.Context) restate.Client[any, []byte] {
	options := []restate.ClientOption{restate.WithBinary}
	if sent.Scope != "" {
		options = append(options, restate.WithScope(sent.Scope))
	}
	if sent.Key != nil {
		return restate.Object[[]byte](ctx, sent.Service, *sent.Key, sent.Handler, options...)
	}
	return restate.Service[[]byte](ctx, sent.Service, sent.Handler, options...)
}

func (sent outgoing) call(ctx restate.Context) restate.ResponseFuture[[]byte] {
	options := []restate.RequestOption{}
	if sent.IdempotencyKey != "" {
		options = append(options, restate.WithIdempotencyKey(sent.IdempotencyKey))
	}
	if sent.LimitKey != "" {
		options = append(options, restate.WithLimitKey(sent.LimitKey))
	}
	return sent.client(ctx).RequestFuture([]byte(sent.Message), options...)
}

func (sent outgoing) send(ctx restate.Context) restate.Invocation {
	options := []restate.SendOption{}
	if sent.IdempotencyKey != "" {
		options = append(options, restate.WithIdempotencyKey(sent.IdempotencyKey))
	}
	if sent.LimitKey != "" {
		options = append(options, restate.WithLimitKey(sent.LimitKey))
	}
	if sent.DelayMs != 0 {
		options = append(options, restate.WithDelay(millis(sent.DelayMs)))
	}
	return sent.client(ctx).Send([]byte(sent.Message), options...)
}

func relay() restate.ServiceDefinition {
	return restate.NewService("Relay").
		Handler("call", restate.NewServiceHandler(func(ctx restate.Context, sent outgoing) (string, error) {
			answer, err := sent.call(ctx).Response()
			if err != nil {
				return "", err
			}
			return string(answer), nil
		})).
		Handler("send", restate.NewServiceHandler(func(ctx restate.Context, sent outgoing) (string, error) {
			return sent.send(ctx).GetInvocationId(), nil
		})).
		Handler("many", restate.NewServiceHandler(func(ctx restate.Context, all []outgoing) (void, error) {
			calls := []restate.ResponseFuture[[]byte]{}
			for _, sent := range all {
				if sent.OneWay {
					sent.send(ctx)
				} else {
					calls = append(calls, sent.call(ctx))
				}
			}
			for _, call := range calls {
				if _, err := call.Response(); err != nil {
					return void{}, err
				}
			}
			return void{}, nil
		}))
}

func hidden() restate.ServiceDefinition {
	return restate.NewService("Hidden", restate.WithIngressPrivate(true)).
		Handler("greet", restate.NewServiceHandler(func(ctx restate.Context, name string) (string, error) {
			return "Hello " + name, nil
		}))
}
