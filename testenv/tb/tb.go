// Package tb fits [testenv] to tests: what it makes is cleaned up with the
// test, what fails ends the test.
package tb

import (
	"context"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
)

// New builds a network for the test.
func New(t testing.TB, o testenv.Options) *testenv.Cluster {
	t.Helper()
	c, err := testenv.New(o)
	if err != nil {
		t.Fatalf("test network: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("test network: cleanup: %v", err)
		}
	})
	return c
}

// Standard builds the standard network for the test.
func Standard(t testing.TB, s testenv.Shape) *testenv.Cluster {
	t.Helper()
	return New(t, testenv.Standard(s))
}

// Run runs a program on the host and returns its stdout.
func Run(t testing.TB, h *testenv.Host, argv ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Start starts a program on the host. If the test fails, its output is
// logged.
func Start(t testing.TB, h *testenv.Host, argv ...string) *testenv.Process {
	t.Helper()
	p, err := h.Start(argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %v:\n%s", h.Name, argv, p.Output())
		}
	})
	return p
}

// Do runs f in the host's namespace.
func Do(t testing.TB, h *testenv.Host, f func() error) {
	t.Helper()
	if err := h.Do(f); err != nil {
		t.Fatal(err)
	}
}

// Capture captures on an interface of the host.
func Capture(t testing.TB, h *testenv.Host, nic string) *testenv.Capture {
	t.Helper()
	c, err := h.Capture(nic)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Eventually waits until f returns nil, at most for d. Be generous with d: it
// costs time only when the test fails.
func Eventually(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := testenv.Poll(ctx, f); err != nil {
		t.Fatal(err)
	}
}
