// The conformance services with Go's SDK; CONTRACT.md says what each handler does.
//
// Listens on PORT, or on a free port, and prints it: "listening on 127.0.0.1:PORT".
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	restate "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/server"
)

// What this process remembers by name, outside of any journal on purpose.
var (
	memory   sync.Mutex
	attempts = map[string]int{}
	mended   = map[string]bool{}
)

func countAttempt(name string) int {
	memory.Lock()
	defer memory.Unlock()
	attempts[name]++
	return attempts[name]
}

func attemptsOf(name string) int {
	memory.Lock()
	defer memory.Unlock()
	return attempts[name]
}

func failUntil(name string, needed int) (int, error) {
	attempt := countAttempt(name)
	if attempt < needed {
		return 0, fmt.Errorf("attempt %d fails on purpose", attempt)
	}
	return attempt, nil
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "0"
	}
	endpoint := server.NewRestate()
	if key := os.Getenv("CONFORMANCE_IDENTITY_KEY"); key != "" {
		endpoint = endpoint.WithIdentityV1(key)
	}
	for _, definition := range []restate.ServiceDefinition{
		basics(), relay(), hidden(), counter(), entries(), list(), holder(), gate(), failures(), drifting(),
		cancelRunner(), cancelBlocker(), killRunner(), killChain(), versioned(), fragile(), short(), commands(),
		fuzz(), fuzzHelper(),
	} {
		endpoint.Bind(definition)
	}
	handler, err := endpoint.Handler()
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		panic(err)
	}
	fmt.Printf("listening on 127.0.0.1:%d\n", listener.Addr().(*net.TCPAddr).Port)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	serving := &http.Server{Handler: handler, Protocols: &protocols}
	panic(serving.Serve(listener))
}
