// What the official client of Go does at an ingress: "clients URL KEY". Prints "ok", or what differs.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	restate "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/ingress"
)

type change struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

type failure struct {
	Message string `json:"message"`
	Code    int    `json:"code"`
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func expect(holds bool, what string, a ...any) {
	if !holds {
		panic(fmt.Sprintf(what, a...))
	}
}

func main() {
	url, key := os.Args[1], "go-"+os.Args[2]
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	client := ingress.NewClient(url)

	// Calls, with headers and with idempotency keys.
	echo := ingress.Service[string, string](client, "Basics", "echo")
	expect(must(echo.Request(ctx, "hello")) == "hello", "echo")
	headers := ingress.Service[restate.Void, map[string]string](client, "Basics", "headers")
	seen := must(headers.Request(ctx, restate.Void{}, restate.WithHeaders(map[string]string{"x-mine": "yes"})))
	expect(seen["x-mine"] == "yes", "headers %v", seen)
	add := ingress.Object[int64, change](client, "Counter", key, "add")
	for range 2 {
		added := must(add.Request(ctx, 2, restate.WithIdempotencyKey("once-"+key)))
		expect(added == change{0, 2}, "added %v", added)
	}

	// Failures.
	_, err := ingress.Object[failure, restate.Void](client, "Failures", key, "failTerminal").
		Request(ctx, failure{"no way", 409})
	expect(err != nil && strings.Contains(err.Error(), "no way"), "failure %v", err)

	// Sends: delayed, attached to, looked at.
	from := time.Now()
	nap := ingress.Service[int64, string](client, "Basics", "nap")
	sent := must(nap.Send(ctx, 10, restate.WithDelay(500*time.Millisecond), restate.WithIdempotencyKey("nap-"+key)))
	again := must(nap.Send(ctx, 10, restate.WithIdempotencyKey("nap-"+key)))
	expect(sent.Id() == again.Id(), "ids %s, %s", sent.Id(), again.Id())
	expect(again.Status() == "PreviouslyAccepted", "status %s", again.Status())
	expect(must(sent.Attach(ctx)) == "rested", "attach")
	expect(time.Since(from) >= 500*time.Millisecond, "too early")
	expect(must(ingress.InvocationById[string](client, sent.Id()).Output(ctx)) == "rested", "output")
	byKey := ingress.ServiceInvocationByIdempotencyKey[string](client, "Basics", "nap", "nap-"+key)
	expect(must(byKey.Attach(ctx)) == "rested", "attach by key")

	// Workflows.
	must(ingress.WorkflowSend[string](client, "Gate", key, "run").Send(ctx, "in"))
	must(ingress.Workflow[string, restate.Void](client, "Gate", key, "open").Request(ctx, "go"))
	expect(must(ingress.WorkflowHandle[string](client, "Gate", key).Attach(ctx)) == "in go", "workflow")
	fmt.Println("ok")
}
