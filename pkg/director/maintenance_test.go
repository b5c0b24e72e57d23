package director

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// fakeRoutes notes what it is told.
type fakeRoutes struct {
	mu      sync.Mutex
	drained []bool
}

func (f *fakeRoutes) Serving([]bgp.VIP) {}

func (f *fakeRoutes) Status() bgp.Status { return bgp.Status{} }

func (f *fakeRoutes) Drain(isDrained bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drained = append(f.drained, isDrained)
}

// isDrained is what it was told last.
func (f *fakeRoutes) isDrained() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.drained) > 0 && f.drained[len(f.drained)-1]
}

// priorities are those of the virtual routers as they were set last.
func (f *fakeVRRP) priorities() (p []uint8) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.set[len(f.set)-1] {
		p = append(p, i.Priority)
	}
	return p
}

func drainable(t *testing.T) *config.Config {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	cfg.BGP = config.BGP{Engine: config.BGPByLVX, ASN: 65010, DrainTime: 5 * time.Second, VIPs: []netip.Addr{}}
	for name, priority := range map[string]uint8{"VI_1": 100, "VI_2": vrrp.OwnerPriority} {
		cfg.VRRP = append(cfg.VRRP, vrrp.Instance{Name: name, Priority: priority})
	}
	slices.SortFunc(cfg.VRRP, func(a, b vrrp.Instance) int { return strings.Compare(a.Name, b.Name) })
	return cfg
}

// A drained director stays drained across reloads and restarts until it is
// undone; an address owner keeps its VIPs.
func TestDirectorStaysDrained(t *testing.T) {
	cfg := drainable(t)
	check := func(r *rig, what string, drained bool, priorities ...uint8) {
		r.Helper()
		if got := r.routes.isDrained(); got != drained {
			r.Errorf("%s: routes drained %t", what, got)
		}
		if got := r.vrrp.priorities(); !slices.Equal(got, priorities) {
			r.Errorf("%s: priorities %d, want %d", what, got, priorities)
		}
		if got := r.warned(directorDrained); len(got) > 0 != drained {
			r.Errorf("%s: warnings %q", what, got)
		}
	}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		check(r, "at first", false, 100, 255)
		got, err := r.DrainDirector(WithUID(t.Context(), 0), false)
		want := "director: drained; routers are asked to prefer others, VIPs are withdrawn after 5s; VI_1 goes to another router that preempts; VI_2 stays: its priority is 255"
		if err != nil || got.Warning != "" || !slices.Equal(got.Did, []string{want}) {
			t.Errorf("%+v, %v", got, err)
		}
		check(r, "drained", true, 1, 255)
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(r, "after a reload", true, 1, 255)
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		check(r, "after a restart", true, 1, 255)
		if got, err := r.DrainDirector(t.Context(), true); err != nil || !slices.Equal(got.Did, []string{"director: takes traffic again"}) {
			t.Errorf("%+v, %v", got, err)
		}
		check(r, "undone", false, 100, 255)
	})
	inBubble(t, cfg, func(_ *testing.T, r *rig) { check(r, "after another restart", false, 100, 255) })
}

func TestNothingToDrain(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		if _, err := r.DrainDirector(t.Context(), false); !errors.Is(err, errNothingToDrain) {
			t.Errorf("drained without bgp: and vrrp: %v", err)
		}
		if _, err := r.DrainDirector(t.Context(), true); err != nil {
			t.Errorf("undone: %v", err)
		}
	})
}
