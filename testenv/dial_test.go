package testenv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// Clients of a service that answers nobody pile up: each of them once held a thread,
// and a process has 10,000.
func TestDialsThatWaitHoldNoThreads(t *testing.T) {
	const dials = 500
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	client := c.Host("client")
	tb.Run(t, client, "ip", "route", "add", "192.0.2.1/32", "via", "172.25.0.12")
	tb.Run(t, c.Host("r1"), "ip", "route", "add", "blackhole", "192.0.2.1/32")
	before := threads(t)
	ctx, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, dials)
	for range dials {
		go func() {
			_, err := client.Dial(ctx, "tcp", "192.0.2.1:80")
			ended <- err
		}()
	}
	tb.Eventually(t, 30*time.Second, func() error {
		if n := len(strings.Split(tb.Run(t, client, "ss", "-Htn", "state", "syn-sent"), "\n")); n < dials {
			return fmt.Errorf("%d clients wait, want %d", n, dials)
		}
		return nil
	})
	if n := threads(t) - before; n > dials/2 {
		t.Errorf("%d threads more while %d clients wait", n, dials)
	}
	hangUp()
	for range dials {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("a client that hung up: %v", err)
		}
	}
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := client.Dial(late, "tcp", "192.0.2.1:80")
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a client whose time is over: %v", err)
	}
}

// threads is how many this process has.
func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}
