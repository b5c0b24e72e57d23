package health_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/health"
)

// A failure that is this host's own is no verdict: the real stays as it was,
// the log and an event say so, and the first check that can be asked again is
// asked at once, also if one was on its way.
func TestOwnFailureIsNoVerdict(t *testing.T) {
	var log strings.Builder
	synctest.Test(t, func(t *testing.T) {
		w, real := newWorld(), loopback
		var cut atomic.Pointer[error] // read and written by other goroutines than the test's, as failures is
		var failures atomic.Int32
		m := health.NewMonitor(health.Options{
			New: w.build, Log: slog.New(slog.NewTextHandler(&log, nil)),
			OnFailure: func(netip.Addr) { failures.Add(1) },
			CannotAsk: func(netip.Addr) error {
				if why := cut.Load(); why != nil {
					return *why
				}
				return nil
			},
		})
		var events []health.Event
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		listened := make(chan struct{})
		go func() {
			defer close(listened)
			for e := range m.Events() {
				events = append(events, e)
			}
		}()
		tgt := health.Target{Spec: health.Spec{Type: health.TCP}, Real: real, Port: 80}
		m.Set([]health.Target{tgt})
		synctest.Wait()

		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		noCarrier := errors.New("no way to it: eth0 has no carrier")
		cut.Store(&noCarrier)
		w.set(real, hang)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		s := m.Status(tgt)
		if !s.Up || !s.NotAsked || s.Fails != 0 || !strings.Contains(s.Reason, "eth0 has no carrier") {
			t.Errorf("five minutes without a carrier: %+v", s)
		}
		if failures.Load() == 0 {
			t.Error("nobody was asked to look again")
		}
		// A check is on its way: the next one does not wait for its end.
		time.Sleep(time.Second)
		for len(w.times(real)) > 0 && time.Since(w.times(real)[len(w.times(real))-1]) > time.Second {
			time.Sleep(100 * time.Millisecond)
		}
		since, asked := time.Now(), len(w.times(real))
		cut.Store(nil)
		w.set(real, nil)
		answered := make(chan time.Duration, 1)
		go func() { m.AwaitVerdicts(t.Context(), since); answered <- time.Since(since) }()
		synctest.Wait()
		m.AskNow(real)
		if took := <-answered; took > 50*time.Millisecond {
			t.Errorf("all verdicts after %s", took)
		}
		synctest.Wait()
		if s = m.Status(tgt); !s.Up || s.NotAsked || len(w.times(real)) != asked+1 {
			t.Errorf("after the carrier came back: %+v", s)
		}
		cancel()
		<-done
		<-listened
		var flags []bool
		for _, e := range events {
			flags = append(flags, e.New.NotAsked)
		}
		if d := cmp.Diff([]bool{false, true, false}, flags); d != "" {
			t.Errorf("events, by whether they say that it cannot be asked:\n%s", d)
		}
	})
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "check cannot be asked") {
		t.Errorf("log:\n%s", &log)
	}
}

// A target that hangs has its timeout, and no more, to give a verdict.
func TestAwaitVerdictsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := health.NewMonitor(health.Options{New: w.build})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		go func() {
			for range m.Events() {
			}
		}()
		w.set(loopback, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		m.Set([]health.Target{{Spec: health.Spec{Type: health.TCP, Timeout: 2 * time.Second}, Real: loopback, Port: 80}})
		since := time.Now()
		m.AwaitVerdicts(ctx, since)
		if took := time.Since(since); took != 2*time.Second {
			t.Errorf("took %s", took)
		}
		m.Set(nil)
		m.AwaitVerdicts(ctx, time.Now())
		cancel()
		<-done
	})
}

// A weight that a check gives is part of the status, and a change of it an
// event.
func TestWeightIsAnEvent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "weight")
	tgt := health.Target{Spec: health.Spec{Type: health.File, File: name, Factor: 2, Interval: 10 * time.Millisecond}, Real: loopback}
	m := health.NewMonitor(health.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	m.Set([]health.Target{tgt})
	if e := <-m.Events(); !e.New.Up || e.New.Weight != (health.Weight{}) {
		t.Errorf("no file: %+v", e)
	}
	if err := os.WriteFile(name, []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e := <-m.Events(); e.New.Weight != (health.Weight{Value: 14}) || !e.New.Up {
		t.Errorf("with 7 in the file: %+v", e)
	}
	cancel()
	<-done
}
