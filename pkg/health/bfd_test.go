package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

func TestBFDCheckFollowsItsSession(t *testing.T) {
	var state error
	find := health.WithBFD(func(session string) error {
		if session != "r1" {
			return errors.New("no such session")
		}
		return state
	})
	target := health.Target{Spec: health.Spec{Type: health.BFD, Session: "r1"}, VIP: netip.MustParseAddr("192.0.2.1")}
	c, err := health.New(target, find)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("session is up: %v", err)
	}
	state = errors.New("down: detection time expired")
	if err := c.Check(t.Context()); err == nil || err.Error() != "bfd session r1: down: detection time expired" {
		t.Errorf("session is down: %v", err)
	}
}

func TestBFDCheckThatCannotBeBuilt(t *testing.T) {
	for want, target := range map[string]health.Target{
		"no BFD here":   {Spec: health.Spec{Type: health.BFD, Session: "r1"}},
		"of no session": {Spec: health.Spec{Type: health.BFD}},
	} {
		if _, err := health.New(target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestBFDCheckBelievesItsSessionAtOnce(t *testing.T) {
	s := health.Spec{Type: health.BFD, Session: "r1"}.WithDefaults()
	if s.Fall != 1 || s.Rise != 1 || s.Interval != time.Second {
		t.Errorf("fall %d, rise %d, interval %v", s.Fall, s.Rise, s.Interval)
	}
}

// Where a real cannot be reached, silence says nothing about it. What was heard,
// or read in a file, does.
func TestVerdictsThatNeedNoWayToTheReal(t *testing.T) {
	down := errors.New("down: the neighbour says administratively down")
	silent := fmt.Errorf("down: %w", health.ErrSilent)
	for _, c := range []struct {
		name  string
		check health.Spec
		err   error
		isUp  bool
	}{
		{"a session that was heard to be down", health.Spec{Type: health.BFD, Session: "r1"}, down, false},
		{"a session that is silent", health.Spec{Type: health.BFD, Session: "r1"}, silent, true},
		{"a file", health.Spec{Type: health.File, File: "/run/x", Fall: 1}, errors.New("holds 1"), false},
		{"a program", health.Spec{Type: health.Exec, Argv: "/bin/x", Fall: 1}, errors.New("exit status 1"), true},
		{"a connection", health.Spec{Type: health.TCP, Fall: 1}, errors.New("refused"), true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			m := health.NewMonitor(health.Options{New: w.build, CannotAsk: func(netip.Addr) error { return errors.New("no carrier") }})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = m.Run(ctx) }()
			go func() {
				for range m.Events() {
				}
			}()
			target := health.Target{Spec: c.check, Real: loopback}
			m.Set([]health.Target{target})
			synctest.Wait()
			w.set(loopback, func(context.Context) error { return c.err })
			time.Sleep(time.Minute)
			synctest.Wait()
			if s := m.Status(target); s.Up != c.isUp || s.NotAsked != c.isUp {
				t.Errorf("%s: %+v, want up %v", c.name, s, c.isUp)
			}
			cancel()
			<-done
		})
	}
}
