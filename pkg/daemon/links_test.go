package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hostLinks are interfaces that a test changes.
type hostLinks struct {
	mu       sync.Mutex
	states   map[string]linkState
	call     func()
	followed []time.Duration
	began    time.Time

	meanwhile *linkState // what eth0 becomes while it is followed
}

func (h *hostLinks) set(name string, s linkState) {
	h.mu.Lock()
	h.states = maps.Clone(h.states)
	h.states[name] = s
	call := h.call
	h.mu.Unlock()
	call()
	synctest.Wait()
}

// watchHost runs a linkWatch over eth0, whose packet path needs a while.
func watchHost(t *testing.T, f func(t *testing.T, h *hostLinks, l *linkWatch)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &hostLinks{states: map[string]linkState{"eth0": {index: 2, mac: "02", program: 7}}, began: time.Now()}
		l := newLinkWatch([]string{"eth0"}, slog.New(slog.DiscardHandler))
		l.read = func([]string) map[string]linkState {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.states
		}
		l.watch = func(ctx context.Context, call func()) error {
			h.mu.Lock()
			h.call = call
			h.mu.Unlock()
			<-ctx.Done()
			return nil
		}
		l.follow = func(context.Context) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.followed = append(h.followed, time.Since(h.began))
			s := h.states["eth0"]
			s.program = 7
			h.states = map[string]linkState{"eth0": s}
			if h.meanwhile != nil {
				h.states["eth0"] = *h.meanwhile
			}
			return errors.New("what goes wrong is the director's to say")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		l.settle(ctx) // as it is at the start
		go func() { done <- l.run(ctx) }()
		synctest.Wait()
		h.mu.Lock()
		h.followed = nil
		h.mu.Unlock()
		time.Sleep(10 * time.Second)
		f(t, h, l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (h *hostLinks) want(t *testing.T, what string, at ...time.Duration) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.followed) != len(at) {
		t.Fatalf("%s: followed at %v, want %v", what, h.followed, at)
	}
	for i := range at {
		if h.followed[i] != at[i] {
			t.Errorf("%s: followed at %v, want %v", what, h.followed, at)
		}
	}
}

// An interface is followed by the event, whatever about it has changed; one
// that changes again and again once a second.
func TestFault13LinksAreFollowedAtOnce(t *testing.T) {
	for name, s := range map[string]linkState{
		"made anew":         {index: 3, mac: "02"},
		"another MAC":       {index: 2, mac: "04", program: 7},
		"another MTU":       {index: 2, mac: "02", mtu: 9000, program: 7},
		"program taken off": {index: 2, mac: "02"},
		"another's program": {index: 2, mac: "02", program: 9},
	} {
		t.Run(name, func(t *testing.T) {
			watchHost(t, func(t *testing.T, h *hostLinks, _ *linkWatch) {
				h.set("eth0", s)
				h.want(t, "changed", 10*time.Second)
				h.call()
				synctest.Wait()
				h.want(t, "an event about nothing", 10*time.Second)
				for range 20 {
					h.set("eth0", linkState{index: 2, mac: "02"})
					time.Sleep(time.Second / 10)
				}
				synctest.Wait()
				h.want(t, "again and again", 10*time.Second, 11*time.Second, 12*time.Second)
			})
		})
	}
}

// What changes while an interface is followed is followed, too.
func TestFault13LinksThatChangeMeanwhileAreFollowed(t *testing.T) {
	for name, s := range map[string]linkState{
		"program taken off": {index: 2, mac: "02"},
		"another MAC":       {index: 2, mac: "06", program: 7},
		"made anew":         {index: 4, mac: "02", program: 7},
	} {
		t.Run(name, func(t *testing.T) {
			watchHost(t, func(t *testing.T, h *hostLinks, _ *linkWatch) {
				h.meanwhile = &s
				h.set("eth0", linkState{index: 2, mac: "04"})
				h.meanwhile = nil
				h.call() // the event
				time.Sleep(2 * linkPause)
				synctest.Wait()
				h.want(t, "meanwhile", 10*time.Second, 11*time.Second)
			})
		})
	}
}

// A new MAC is announced once the packet path knows it, or a second has passed.
func TestFault28PathKnowsTheMACFirst(t *testing.T) {
	watchHost(t, func(t *testing.T, h *hostLinks, l *linkWatch) {
		h.mu.Lock()
		h.states = map[string]linkState{"eth0": {index: 2, mac: "04", program: 7}}
		h.mu.Unlock()
		l.settleBefore(t.Context(), "eth7")
		h.want(t, "another interface")
		l.settleBefore(t.Context(), "eth0")
		h.want(t, "before the announcement", 10*time.Second)
		l.follow = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		h.mu.Lock()
		h.states = map[string]linkState{"eth0": {index: 2, mac: "06", program: 7}}
		h.mu.Unlock()
		time.Sleep(linkPause)
		began := time.Now()
		l.settleBefore(t.Context(), "eth0")
		if took := time.Since(began); took != linkSettleTime {
			t.Errorf("a packet path that hangs holds an announcement up for %s", took)
		}
	})
}

// A packet path that has left an interface is called once more by events, and not by
// every event from then on.
func TestFault13LinkWithoutAProgramIsKnown(t *testing.T) {
	watchHost(t, func(t *testing.T, h *hostLinks, _ *linkWatch) {
		h.meanwhile = &linkState{index: 2, mac: "02"} // whatever is done, there is none
		h.set("eth0", *h.meanwhile)
		for range 5 {
			h.call()
			time.Sleep(2 * linkPause)
		}
		h.want(t, "without a program", 10*time.Second, 11*time.Second)
	})
}
