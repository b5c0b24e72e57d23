package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
)

// Hook has another routing daemon of this host announce the routes: it writes
// them to a file, and runs a program that reads them. Each of the two is told
// the latest set alone, at once, one at a time and in order; what fails is tried
// again, and once a minute the program is told again what it was told, so that a
// routing daemon that was restarted learns it. An end leaves the last set as it
// is.
type Hook struct {
	outlets []*outlet
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// HookOptions say who is told.
type HookOptions struct {
	File string // "": none
	Exec string // the program's name for people, "": none

	// Run runs the program with the routes as its input.
	Run func(ctx context.Context, routes string) error
}

// NewHook makes a hook; nobody is told before [Hook.Start].
func NewHook(o HookOptions) *Hook {
	h := &Hook{}
	add := func(name string, refresh time.Duration, say func(context.Context, string) error) {
		h.outlets = append(h.outlets, &outlet{name: name, say: say, refresh: refresh, wake: make(chan struct{}, 1)})
	}
	if o.File != "" {
		add("file "+o.File, 0, func(_ context.Context, routes string) error {
			return jsonfile.Replace(o.File, []byte(routes), 0o644) // the routing daemon's user reads it
		})
	}
	if o.Exec != "" {
		add("program "+o.Exec, hookRefresh, o.Run)
	}
	return h
}

// Start begins to tell.
func (h *Hook) Start(ctx context.Context) error {
	if len(h.outlets) == 0 {
		return errors.New("bgp: neither a file nor a program to tell")
	}
	ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, o := range h.outlets {
		h.done.Go(func() { o.run(ctx) })
	}
	return nil
}

// Set has exactly these routes announced. It may be called at any time, and
// waits for nobody.
func (h *Hook) Set(routes []Route) error {
	text := FormatRoutes(routes)
	for _, o := range h.outlets {
		o.set(text)
	}
	return nil
}

// Settle waits until what was set has been said, or ctx ends.
func (h *Hook) Settle(ctx context.Context) {
	for _, o := range h.outlets {
		for !o.isCurrent() && ctx.Err() == nil {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// Stop tells nobody any more. What was announced stays so.
func (h *Hook) Stop() {
	if h.cancel != nil {
		h.cancel()
	}
	h.done.Wait()
}

// HookStatus is what is known of who is told.
type HookStatus struct {
	Name      string    `json:"name"`             // "file /run/lvx/routes", "program /usr/local/sbin/announce"
	IsCurrent bool      `json:"current"`          // it has been told what is to be announced now
	Since     time.Time `json:"since,omitzero"`   // when it was told last
	Reason    string    `json:"reason,omitempty"` // why it has not been told, for people
}

// Status reports on who is told.
func (h *Hook) Status(context.Context) (Status, error) {
	var st Status
	for _, o := range h.outlets {
		st.Hook = append(st.Hook, o.status())
	}
	return st, nil
}

// FormatRoutes writes routes as a hook is told them: a line a route, sorted by
// address: "198.51.100.100/32 announce", or "… drain" where routers are to prefer
// other directors.
func FormatRoutes(routes []Route) string {
	routes = slices.Clone(routes)
	slices.SortFunc(routes, func(a, b Route) int { return a.Addr.Compare(b.Addr) })
	var b strings.Builder
	for _, r := range routes {
		word := "announce"
		if r.IsDraining {
			word = "drain"
		}
		fmt.Fprintf(&b, "%s %s\n", netip.PrefixFrom(r.Addr, r.Addr.BitLen()), word)
	}
	return b.String()
}
