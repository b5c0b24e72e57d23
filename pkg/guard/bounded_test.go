package guard_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// Programs are given up by their names and files by their paths.
func TestWhatIsGivenUp(t *testing.T) {
	const program, file = "/usr/bin/hanging", "/mnt/hanging"
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 16 {
			for _, name := range []string{program, file} {
				go guard.Bounded(ctx, name, func() (int, error) { <-release; return 0, nil })
			}
		}
		time.Sleep(time.Minute)
		if out, err := (guard.Program{Argv: []string{program, "-x"}}).Run(t.Context()); !errors.Is(err, guard.ErrUnending) {
			t.Errorf("program: %q %v", out, err)
		}
		if n, err := guard.ReadNumber(t.Context(), file); !errors.Is(err, guard.ErrUnending) {
			t.Errorf("number: %d %v", n, err)
		}
		if _, err := (guard.Program{Argv: []string{file}}).Run(t.Context()); err == nil {
			t.Error("a file counts as a program")
		}
		close(release)
	})
}

// Of what does not end only so many are begun, until they end.
func TestBoundedCountsWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var begun atomic.Int32
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := guard.Bounded(ctx, "/bin/x", func() (int, error) { begun.Add(1); <-release; return 7, nil })
			return err
		}
		for range 16 {
			if began, err := time.Now(), call(); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 4*time.Second {
				t.Fatalf("%v after %v", err, time.Since(began))
			}
		}
		if began, err := time.Now(), call(); !errors.Is(err, guard.ErrUnending) || time.Since(began) != 0 || begun.Load() != 16 {
			t.Errorf("%v after %v, %d were begun", err, time.Since(began), begun.Load())
		}
		close(release)
		synctest.Wait()
		if err := call(); err != nil {
			t.Errorf("after they have ended: %v", err)
		}
	})
}
