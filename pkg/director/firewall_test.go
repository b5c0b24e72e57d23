package director

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

type fakeFirewall struct {
	mu    sync.Mutex
	says  []string
	err   error
	asked [][]lb.Listener
	on    []string
}

func (f *fakeFirewall) Dropped(served []lb.Listener, interfaces []string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.on = append(f.asked, served), interfaces
	return f.says, f.err
}

func (f *fakeFirewall) now(err error, says ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.says, f.err = says, err
}

// guarded runs f with a director beside a firewall; lines takes what was
// logged since the last time, without time and component.
func guarded(t *testing.T, fw *fakeFirewall, f func(t *testing.T, r *rig, lines func() string)) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		cfg := configOf(service("web", 1))
		cfg.Warnings = []string{"careful"}
		r := newRig(t, cfg)
		r.opt.Firewall = fw
		r.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		r.warnings = warnings.New(r.log)
		ctx, cancel := context.WithCancel(t.Context())
		res := make(chan error, 1)
		go func() { res <- r.Director.Run(ctx) }()
		<-r.Ready()
		synctest.Wait()
		f(t, r, log.take)
		cancel()
		if err := <-res; err != nil {
			t.Error(err)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.b.String()
	l.b.Reset()
	return s
}

// A warning is logged when it is new, and shown in the status as long as it
// holds.
func TestFirewallWarnings(t *testing.T) {
	fw := &fakeFirewall{says: []string{"rule 1"}}
	guarded(t, fw, func(t *testing.T, r *rig, lines func() string) {
		check := func(when string, logged int, shown ...string) {
			t.Helper()
			synctest.Wait()
			if got := lines(); strings.Count(got, "level=WARN") != logged {
				t.Errorf("%s: logged %q, want %d lines", when, got, logged)
			}
			st, err := r.Status(t.Context())
			var texts []string
			for _, w := range st.Warnings {
				texts = append(texts, w.Text)
			}
			if err != nil || !slices.Equal(texts, append([]string{"careful"}, shown...)) {
				t.Errorf("%s: status shows %q, %v", when, texts, err)
			}
		}
		check("at the start", 2, "rule 1") // and what the configuration says
		time.Sleep(3 * driftInterval)
		check("nothing new", 0, "rule 1")
		fw.now(nil, "rule 1", "rule 2")
		time.Sleep(driftInterval)
		check("a new rule", 1, "rule 1", "rule 2")
		fw.now(errors.New("busy"))
		time.Sleep(2 * driftInterval)
		check("not read", 0, "rule 1", "rule 2", "not read, whether it means to drop packets to VIPs is not known: busy")
		fw.now(nil)
		time.Sleep(driftInterval)
		check("gone", 0)
		fw.now(nil, "rule 3")
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("after a reload", 1, "rule 3")
	})
}

// What the kernel forwards itself is behind the firewall.
func TestFirewallIsAskedForDirectRouting(t *testing.T) {
	fw := &fakeFirewall{}
	guarded(t, fw, func(t *testing.T, r *rig, _ func() string) {
		if last := fw.asked[len(fw.asked)-1]; len(last) != 1 || last[0].Addr != vip || !slices.Equal(fw.on, []string{"eth0"}) {
			t.Errorf("asked for %v on %v", last, fw.on)
		}
	})
}

// By the way that a service takes it, not by what its file says: NAT may be either's.
func TestDirectListeners(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	cfg.Services[0].Reals[1].Forward = lb.NAT
	for backend, want := range map[string]int{"ipvs": 0, "xdp": 1, "": 1} {
		observed := lb.Observed{Services: []lb.ObservedService{{Name: "web", Backend: backend}}}
		if got := directListeners(cfg, observed); len(got) != want {
			t.Errorf("on %q: %v", backend, got)
		}
	}
	if got := directListeners(cfg, lb.Observed{}); len(got) != 1 {
		t.Errorf("before it runs: %v", got)
	}
}
