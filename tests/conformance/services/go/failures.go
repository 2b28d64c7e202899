package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	restate "github.com/restatedev/sdk-go"
)

type failure struct {
	Message  string            `json:"message"`
	Code     uint16            `json:"code"`
	Metadata map[string]string `json:"metadata"`
}

func (f failure) terminal() error {
	code := f.Code
	if code == 0 {
		code = 500
	}
	options := []restate.TerminalErrorOption{restate.WithErrorCode(restate.Code(code))}
	if f.Metadata != nil {
		options = append(options, restate.WithMetadataMap(f.Metadata))
	}
	return restate.ToTerminalError(errors.New(f.Message), options...)
}

func failures() restate.ServiceDefinition {
	fast := []restate.RunOption{restate.WithInitialRetryInterval(10 * time.Millisecond), restate.WithRetryIntervalFactor(1)}
	return restate.NewObject("Failures").
		Handler("failTerminal", restate.NewObjectHandler(func(ctx restate.ObjectContext, f failure) (void, error) {
			return void{}, f.terminal()
		})).
		Handler("callFailing", restate.NewObjectHandler(func(ctx restate.ObjectContext, f failure) (void, error) {
			if _, err := restate.Object[void](ctx, "Failures", restate.UUID(ctx).String(), "failTerminal").Request(f); err != nil {
				return void{}, err
			}
			return void{}, nil
		})).
		Handler("catchFailing", restate.NewObjectHandler(func(ctx restate.ObjectContext, f failure) (string, error) {
			_, err := restate.Object[void](ctx, "Failures", restate.UUID(ctx).String(), "failTerminal").Request(f)
			if err == nil {
				return "nothing was caught", nil
			}
			return fmt.Sprintf("caught %d: %s", err.Code(), err.Message()), nil
		})).
		Handler("failInRun", restate.NewObjectHandler(func(ctx restate.ObjectContext, f failure) (void, error) {
			if err := restate.RunVoid(ctx, func(restate.RunContext) error { return f.terminal() }, restate.WithName("fails")); err != nil {
				return void{}, err
			}
			return void{}, nil
		})).
		Handler("failUntil", restate.NewObjectHandler(func(ctx restate.ObjectContext, needed int) (int, error) {
			return failUntil("failUntil "+restate.Key(ctx), needed)
		})).
		Handler("runUntil", restate.NewObjectHandler(func(ctx restate.ObjectContext, needed int) (int, error) {
			attempts, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
				return failUntil("runUntil "+restate.Key(ctx), needed)
			}, fast...)
			if err != nil {
				return 0, err
			}
			return attempts, nil
		})).
		Handler("runExhausted", restate.NewObjectHandler(func(ctx restate.ObjectContext, most uint) (int, error) {
			name := "runExhausted " + restate.Key(ctx)
			_, err := restate.Run(ctx, func(restate.RunContext) (int, error) {
				return failUntil(name, 1_000_000)
			}, append(fast, restate.WithMaxRetryAttempts(most))...)
			if err == nil {
				return -1, nil
			}
			attempts, err := restate.Run(ctx, func(restate.RunContext) (int, error) { return attemptsOf(name), nil })
			if err != nil {
				return 0, err
			}
			return attempts, nil
		}))
}

func isOdd(ctx restate.ObjectContext, handler string) bool {
	return countAttempt(handler+" "+restate.Key(ctx))%2 == 1
}

func add(ctx restate.ObjectContext) (void, error) {
	restate.ObjectSend(ctx, "Counter", restate.Key(ctx), "add").Send(1)
	return void{}, nil
}

func drifting() restate.ServiceDefinition {
	once := restate.WithInvocationRetryPolicy(
		restate.WithInitialRetryInterval(time.Millisecond), restate.WithMaxRetryAttempts(1), restate.KillOnMaxAttempts())
	return restate.NewObject("Drifting", once).
		Handler("sleepOrCall", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			if isOdd(ctx, "sleepOrCall") {
				if err := restate.Sleep(ctx, millis(100)); err != nil {
					return void{}, err
				}
			} else if _, err := restate.Object[int64](ctx, "Counter", "drift", "get").Request(void{}); err != nil {
				return void{}, err
			}
			return add(ctx)
		})).
		Handler("callDifferent", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			if isOdd(ctx, "callDifferent") {
				if _, err := restate.Object[int64](ctx, "Counter", "drift", "get").Request(void{}); err != nil {
					return void{}, err
				}
			} else if _, err := restate.Object[void](ctx, "Counter", "drift", "reset").Request(void{}); err != nil {
				return void{}, err
			}
			return add(ctx)
		})).
		Handler("sendDifferent", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			handler := "reset"
			if isOdd(ctx, "sendDifferent") {
				handler = "get"
			}
			restate.ObjectSend(ctx, "Counter", "drift", handler).Send(void{})
			if err := restate.Sleep(ctx, millis(100)); err != nil {
				return void{}, err
			}
			return add(ctx)
		})).
		Handler("setDifferent", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (void, error) {
			name := "b"
			if isOdd(ctx, "setDifferent") {
				name = "a"
			}
			restate.Set(ctx, name, "value")
			if err := restate.Sleep(ctx, millis(100)); err != nil {
				return void{}, err
			}
			return add(ctx)
		}))
}

func ownVersion() string {
	if version := os.Getenv("CONFORMANCE_VERSION"); version != "" {
		return version
	}
	return "1"
}

func versioned() restate.ServiceDefinition {
	return restate.NewObject("Versioned").
		Handler("version", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (string, error) {
			return ownVersion(), nil
		})).
		Handler("spanning", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) ([]string, error) {
			first := ownVersion()
			awakeable := restate.Awakeable[string](ctx)
			if _, err := restate.Object[void](ctx, "Holder", restate.Key(ctx), "hold").Request(awakeable.Id()); err != nil {
				return nil, err
			}
			between, err := awakeable.Result()
			if err != nil {
				return nil, err
			}
			return []string{first, between, ownVersion()}, nil
		}))
}

func isMended(ctx restate.ObjectSharedContext) bool {
	memory.Lock()
	defer memory.Unlock()
	return mended[restate.Key(ctx)]
}

func fragile() restate.ServiceDefinition {
	thrice := restate.WithInvocationRetryPolicy(
		restate.WithInitialRetryInterval(5*time.Millisecond), restate.WithMaxRetryInterval(5*time.Millisecond),
		restate.WithMaxRetryAttempts(3), restate.PauseOnMaxAttempts())
	return restate.NewObject("Fragile", thrice).
		Handler("echo", restate.NewObjectHandler(func(ctx restate.ObjectContext, text string) (string, error) {
			if !isMended(ctx) {
				return "", errors.New("broken on purpose")
			}
			return text, nil
		})).
		Handler("runThenFail", restate.NewObjectHandler(func(ctx restate.ObjectContext, text string) (string, error) {
			value, err := restate.Run(ctx, func(restate.RunContext) (string, error) {
				if isMended(ctx) {
					return "new", nil
				}
				return "old", nil
			}, restate.WithName("value"))
			if err != nil {
				return "", err
			}
			if !isMended(ctx) {
				return "", restate.TerminalErrorf("broken on purpose")
			}
			return text + " from " + value, nil
		})).
		Handler("versionOrFail", restate.NewObjectHandler(func(ctx restate.ObjectContext, _ void) (string, error) {
			if ownVersion() == "1" {
				return "", errors.New("broken in version 1")
			}
			return ownVersion(), nil
		})).
		Handler("mend", restate.NewObjectSharedHandler(func(ctx restate.ObjectSharedContext, _ void) (void, error) {
			memory.Lock()
			defer memory.Unlock()
			mended[restate.Key(ctx)] = true
			return void{}, nil
		}))
}

func short() restate.ServiceDefinition {
	return restate.NewService("Short", restate.WithIdempotencyRetention(2*time.Second), restate.WithJournalRetention(0)).
		Handler("attempt", restate.NewServiceHandler(func(ctx restate.Context, name string) (int, error) {
			attempt, err := restate.Run(ctx, func(restate.RunContext) (int, error) { return countAttempt("short " + name), nil })
			if err != nil {
				return 0, err
			}
			return attempt, nil
		}))
}
