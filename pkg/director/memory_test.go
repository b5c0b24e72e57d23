package director

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

func TestMemorySurvivesKill(t *testing.T) {
	cfg := configOf(service("web", 1, 1, 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.health.result(3, false, "refused")
		r.want("before", "1*1 2*1")
	})
	// Fault 21: however long the daemon was away, and whatever the clock says.
	for _, age := range []time.Duration{0, 70 * time.Second, 1000 * time.Hour, -time.Hour} {
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(cfg.StateDir, memoryFile), at, at); err != nil {
			t.Fatal(err)
		}
		inBubble(t, cfg, func(t *testing.T, r *rig) { r.want("the next daemon goes on", "1*1 2*1") })
	}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, false, "refused")
		r.want("and its checks decide", "2*1")
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) { r.want("also for the next one", "2*1") })
	synctest.Test(t, func(t *testing.T) { // after a reboot the data path has nothing
		r := newRig(t, cfg)
		r.opt.Boot = "another"
		if m := r.loadMemory(); m.Up != nil {
			t.Errorf("believed after a reboot: %+v", m)
		}
	})
}

// heir is a backend that was left reals in force.
type heir struct {
	*lbtest.Fake
	left []lb.ObservedService
	vips []netip.Addr
}

func (h heir) Inherited() []lb.ObservedService { return h.left }
func (h heir) InheritedVIPs() []netip.Addr     { return h.vips }

// Fault 21: without notes, or with broken ones, what the data path was left
// says which reals were up.
func TestMemoryIsInherited(t *testing.T) {
	for name, text := range map[string]string{"no file": "", "zeros": "\x00\x00\x00", "another boot": `{"boot":"another","up":[]}`} {
		t.Run(name, func(t *testing.T) {
			cfg := configOf(service("web", 1, 1, 1))
			cfg.StateDir = t.TempDir()
			if text != "" {
				if err := os.WriteFile(filepath.Join(cfg.StateDir, memoryFile), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, cfg)
				var left lb.ObservedService
				left.Name = "web"
				for _, i := range []int{0, 2} {
					real := cfg.Services[0].Reals[i]
					left.Reals = append(left.Reals, lb.ObservedReal{Addr: real.Addr, Port: real.Port, Weight: 1})
				}
				r.opt.Backend = heir{Fake: r.backend, left: []lb.ObservedService{left}}
				r.runDuring(t, func() {
					r.want("as they were left", "1*1 3*1")
					r.health.result(1, false, "refused")
					r.want("and checks decide", "3*1")
				})
			})
		})
	}
}

// A master that was killed forwards again from the first plan on, until its
// router has found out whether it still is one: the lease decides, and with
// it over nothing passes.
func TestRolesSurviveKill(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	cfg.VRRP = []vrrp.Instance{
		{Name: "VI_1", Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}},
		{Name: "VI_2", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.200/24")}},
	}
	standby := func(r *rig, want ...netip.Addr) {
		t.Helper()
		wantStandby(t, r.state(), want...)
	}
	other := netip.MustParseAddr("10.0.0.200")
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		standby(r, vip, other)
		if err := r.Activate("VI_1"); err != nil {
			t.Fatal(err)
		}
		standby(r, other)
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		standby(r, other)
		if err := r.Deactivate("VI_1"); err != nil {
			t.Fatal(err)
		}
		standby(r, vip, other)
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) { standby(r, vip, other) })
}

func wantStandby(t *testing.T, s lb.State, want ...netip.Addr) {
	t.Helper()
	if got := slices.SortedFunc(maps.Keys(s.StandbyVIPs()), netip.Addr.Compare); !slices.Equal(got, want) {
		t.Errorf("standby %v, want %v", got, want)
	}
}

// A master that was killed before its role was on the disk, or that keeps no
// notes, forwards again from the first plan on: the data path knows.
func TestRolesAreInherited(t *testing.T) {
	other := netip.MustParseAddr("10.0.0.200")
	for name, dir := range map[string]string{"an old note": t.TempDir(), "no notes": ""} {
		t.Run(name, func(t *testing.T) {
			cfg := configOf(service("web", 1))
			cfg.StateDir = dir
			cfg.VRRP = []vrrp.Instance{
				{Name: "VI_1", Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}},
				{Name: "VI_2", Addresses: []netip.Prefix{netip.PrefixFrom(other, 24)}},
			}
			if dir != "" {
				inBubble(t, cfg, func(t *testing.T, r *rig) { wantStandby(t, r.state(), vip, other) })
			}
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, cfg)
				r.opt.Backend = heir{Fake: r.backend, vips: []netip.Addr{vip}}
				r.runDuring(t, func() { wantStandby(t, r.state(), other) })
			})
		})
	}
}

func TestMemoryIsForgotten(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.want("before", "1*1")
		for range 2 {
			if err := Forget(cfg); err != nil {
				t.Fatal(err)
			}
		}
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) { r.want("after a clean stop", "") })
}

func TestMemoryCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Memory{Up: map[string]Verdicts{}, Quorum: map[string]bool{}, Leases: map[string]uint32{}}
		for i, name := range rapid.SliceOfDistinct(rapid.String().Filter(utf8.ValidString), rapid.ID).Draw(t, "services") {
			m.Up[name] = Verdicts{{key(i % 200), true}}
			m.Quorum[name] = rapid.Bool().Draw(t, "quorum")
			m.Leases[name] = uint32(i)
			m.Active = append(m.Active, name)
		}
		b, err := json.Marshal(storeMemory(m, "boot"))
		if err != nil {
			t.Fatal(err)
		}
		var stored storedMemory
		if err := json.Unmarshal(b, &stored); err != nil || stored.Boot != "boot" {
			t.Fatal(stored, err)
		}
		got := restoreMemory(stored)
		if d := cmp.Diff(m, got, compareAddrs); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzRestoreMemory(f *testing.F) {
	f.Add([]byte(`{"up":[{"service":"web","real":"10.0.0.1:0"}],"quorum":{"web":true},"leases":{"VI_1":0,"VI_2":0}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var stored storedMemory
		if json.Unmarshal(b, &stored) != nil {
			return
		}
		m := restoreMemory(stored)
		ids := map[uint32]bool{}
		for _, id := range m.Leases {
			if ids[id] {
				t.Fatalf("lease %d twice", id)
			}
			ids[id] = true
		}
	})
}
