package health_test

import (
	"fmt"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// listenerEnv makes the test binary a server that accepts and closes, so
// that its work is not counted as the prober's.
const listenerEnv = "LVX_TEST_LISTENER"

func TestMain(m *testing.M) {
	if os.Getenv(listenerEnv) != "" {
		listen()
		return
	}
	goleak.VerifyTestMain(m)
}

// listen prints the port and accepts until its standard input ends. It reads
// what a client sends, if that comes, and answers any request of HTTP.
func listen() {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Read(make([]byte, 512)); err == nil {
					_, _ = c.Write([]byte("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"))
				}
			}()
		}
	}()
	_, _ = os.Stdin.Read(make([]byte, 1))
}
