package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestFormatRoutes(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.9")
	got := FormatRoutes([]Route{{Addr: vip6}, {Addr: vip, IsDraining: true}, {Addr: other}})
	const want = "192.0.2.9/32 announce\n192.0.2.100/32 drain\n2001:db8::100/128 announce\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// hookRuns is a program that notes what it is told.
type hookRuns struct {
	mu    sync.Mutex
	heard []string
	takes time.Duration
	err   error
}

func (r *hookRuns) run(ctx context.Context, routes string) error {
	select {
	case <-time.After(r.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, routes)
	return r.err
}

func (r *hookRuns) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *hookRuns) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.heard)
}

// startHook starts a hook that runs a program.
func startHook(t interface{ Fatal(...any) }, r *hookRuns) *Hook {
	h := NewHook(HookOptions{Exec: "/announce", Run: r.run})
	if err := h.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return h
}

const (
	announcedText = "192.0.2.100/32 announce\n"
	drainingText  = "192.0.2.100/32 drain\n"
)

func TestHookTellsTheLatestInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &hookRuns{takes: time.Second}
		h := startHook(t, r)
		defer h.Stop()
		set := func(routes ...Route) {
			if err := h.Set(routes); err != nil {
				t.Error(err)
			}
		}
		set(Route{Addr: vip})
		synctest.Wait() // the first run is under way
		set()
		set(Route{Addr: vip, IsDraining: true}) // what was set between is never told
		set(Route{Addr: vip, IsDraining: true})
		h.Settle(t.Context())
		if got, want := r.all(), []string{announcedText, drainingText}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		time.Sleep(hookRefresh + 2*time.Second) // a daemon that was restarted has forgotten
		if got, want := r.all(), []string{announcedText, drainingText, drainingText}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		set()
		h.Settle(t.Context())
		if got := r.all(); got[len(got)-1] != "" {
			t.Errorf("told %q at last, want nothing to announce", got[len(got)-1])
		}
	})
}

func TestHookTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &hookRuns{err: errors.New("exit status 1")}
		h := startHook(t, r)
		defer h.Stop()
		if err := h.Set([]Route{{Addr: vip}}); err != nil {
			t.Error(err)
		}
		status := func() HookStatus {
			st, _ := h.Status(t.Context())
			return st.Hook[0]
		}
		time.Sleep(100 * time.Millisecond)
		if st := status(); st.IsCurrent || st.Reason != "exit status 1" || st.Name != "program /announce" {
			t.Errorf("status of a program that fails: %+v", st)
		}
		time.Sleep(2 * time.Minute)
		if n := len(r.all()); n < 5 || n > 12 {
			t.Errorf("%d runs in two minutes of failures, want some, ever further apart", n)
		}
		if err := h.Set(nil); err != nil { // what is new is tried at once
			t.Error(err)
		}
		synctest.Wait()
		if got := r.all(); got[len(got)-1] != "" {
			t.Errorf("told %q at last", got)
		}
		r.fail(nil)
		h.Settle(t.Context())
		if st := status(); !st.IsCurrent || st.Reason != "" || st.Since.IsZero() {
			t.Errorf("status when it works again: %+v", st)
		}
	})
}

func TestHookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &hookRuns{takes: time.Hour}
		h := startHook(t, r)
		if err := h.Set(nil); err != nil {
			t.Error(err)
		}
		time.Sleep(hookPatience + time.Millisecond)
		st, _ := h.Status(t.Context())
		if st.Hook[0].Reason != "not done within 10s" {
			t.Errorf("status: %+v", st)
		}
		begin := time.Now()
		h.Stop()
		if took := time.Since(begin); took > 0 {
			t.Errorf("the end of a program that hangs took %s", took)
		}
	})
}

// Whatever is set when, the program hears sets in the order in which they were
// set, and the last one at last.
func TestHookOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 3000), 1, 20).Draw(rt, "pauses in ms")
		takes := rapid.IntRange(0, 2000).Draw(rt, "a run takes ms")
		synctest.Test(t, func(*testing.T) {
			r := &hookRuns{takes: time.Duration(takes) * time.Millisecond}
			h := startHook(rt, r)
			defer h.Stop()
			var set []string
			for i, pause := range steps {
				routes := []Route{{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}}
				set = append(set, FormatRoutes(routes))
				if err := h.Set(routes); err != nil {
					rt.Error(err)
				}
				time.Sleep(time.Duration(pause) * time.Millisecond)
			}
			h.Settle(context.Background())
			heard := r.all()
			at := 0
			for _, text := range heard {
				for at < len(set) && set[at] != text {
					at++
				}
				if at == len(set) {
					rt.Fatalf("told %q, set %q", heard, set)
				}
				at++
			}
			if heard[len(heard)-1] != set[len(set)-1] {
				rt.Errorf("told %q at last, want %q", heard[len(heard)-1], set[len(set)-1])
			}
		})
	})
}

func TestHookFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lvx", "routes")
	h := NewHook(HookOptions{File: file})
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	for _, routes := range [][]Route{{{Addr: vip}}, {{Addr: vip, IsDraining: true}}, nil} {
		if err := h.Set(routes); err != nil {
			t.Fatal(err)
		}
		h.Settle(t.Context())
		got, err := os.ReadFile(file)
		if err != nil || string(got) != FormatRoutes(routes) {
			t.Errorf("the file holds %q, %v", got, err)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v: want it readable for the other daemon", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v %v left beside the file", entries, err)
	}
}

func TestHookWithoutAnybody(t *testing.T) {
	if err := NewHook(HookOptions{}).Start(t.Context()); err == nil {
		t.Error(fmt.Errorf("nobody is told, and nobody hears of it"))
	}
}
