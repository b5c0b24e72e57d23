package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// What is noted of virtual routers is there for the next run, with the routes that go
// with their VIPs; nothing of address owners, nothing behind an end without a
// successor.
func TestNotesOfVirtualRouters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "routers.json")
	report := func(err error) { t.Errorf("notes: %v", err) }
	prefix := netip.MustParsePrefix
	next := func(change func(*routersLeft)) []routerVIPs {
		t.Helper()
		r := newRoutersLeft(file, report)
		change(r)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.notes.Run(ctx, time.Minute); err != nil {
			t.Fatal(err)
		}
		return newRoutersLeft(file, report).left
	}
	routing := vip.Routing{
		Routes: []vip.Route{{To: prefix("10.3.0.0/16"), Via: netip.MustParseAddr("10.0.0.1"), Table: 7}},
		Rules:  []vip.Rule{{From: prefix("10.1.0.0/16"), Mark: 3, Table: 7}},
	}
	got := next(func(r *routersLeft) {
		_ = r.note([]vrrp.Instance{
			{Name: "VI_1", Interface: "eth0", Priority: 100, Addresses: []netip.Prefix{prefix("10.0.0.100/24"), prefix("10.0.0.101/24")}, Routing: routing},
			{Name: "VI_2", Interface: "eth0", Priority: vrrp.OwnerPriority, Addresses: []netip.Prefix{prefix("10.0.0.102/24")}},
		}, false)
	})
	want := []routerVIPs{{Interface: "eth0", VIPs: []netip.Prefix{prefix("10.0.0.100/24"), prefix("10.0.0.101/24")}, Routing: routing}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("for the next run:\n%s", d)
	}
	if got := next(func(r *routersLeft) { _ = r.release() }); got != nil {
		t.Errorf("behind an end without a successor: %+v", got)
	}
}

// A stop takes the VIPs of a router off the interface, unless nobody took them over: only
// those are the next start's to take off. Another one with such an address, put there
// meanwhile, is the host's own.
func TestNotesBehindAStop(t *testing.T) {
	router := func(name string, vrid uint8, vip string) vrrp.Instance {
		return vrrp.Instance{Name: name, Interface: "nosuch0", VRID: vrid, Version: 3, Priority: 100, AdvertInterval: time.Second, Addresses: []netip.Prefix{netip.MustParsePrefix(vip)}}
	}
	for name, successor := range map[string]bool{"stop": false, "restart": true} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "routers.json")
			report := func(err error) { t.Errorf("notes: %v", err) }
			cfg := &config.Config{StopGrace: time.Minute, VRRP: []vrrp.Instance{router("VI_1", 51, "10.0.0.100/24"), router("VI_2", 52, "10.0.0.101/24")}}
			backend, log := lbtest.NewFake(), slog.New(slog.DiscardHandler)
			// run is a daemon from its start to its end; what it notes is for the next one.
			run := func(end func(*Daemon) error) *routersLeft {
				t.Helper()
				d := &Daemon{opt: Options{Config: cfg}, log: log, backend: backend, canLease: true, left: newRoutersLeft(file, report)}
				d.director = director.New(director.Options{Config: cfg, Backend: backend, Log: log})
				d.router = newRouter(nil, nil, backend, nil, log)
				d.router.left = d.left
				if err := errors.Join(d.router.Set(cfg.VRRP), end(d)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := d.left.run(ctx); err != nil {
					t.Fatal(err)
				}
				return newRoutersLeft(file, report)
			}
			next := run(func(d *Daemon) error {
				d.router.behind["VI_1"] = !successor
				return d.leave(t.Context(), successor)
			})
			want := 1
			if successor {
				want = 2
			}
			if len(next.left) != want || next.left[0].VIPs[0] != cfg.VRRP[0].Addresses[0] {
				t.Errorf("for the next run: %+v", next.left)
			}
			if next.resigned.Load() == successor {
				t.Errorf("the next run takes this one for resigned: %v", !successor)
			}
			for _, settled := range [][]string{nil, {"VI_2"}, {"VI_2", "VI_1"}} {
				next := run(func(d *Daemon) error {
					for _, instance := range settled {
						d.router.settle(instance)
					}
					return nil
				})
				if want := !successor && len(settled) < 2; next.resigned.Load() != want {
					t.Errorf("behind a run that was killed, with %v settled, the one before it counts as resigned: %v, want %v", settled, !want, want)
				}
			}
		})
	}
}

// Routes that a router which is there still needs as well stay.
func TestRoutesOfTwoRouters(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, _ int) {
		routing := vip.Routing{Routes: []vip.Route{{To: netip.MustParsePrefix("10.3.0.0/16"), Interface: "eth0", Table: 7}}}
		if err := routing.Add(); err != nil {
			t.Error(err)
		}
		at := func(vip string) routerVIPs {
			return routerVIPs{Interface: "eth0", VIPs: []netip.Prefix{netip.MustParsePrefix(vip)}, Routing: routing}
		}
		count := func() int {
			list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 7}, netlink.RT_FILTER_TABLE)
			if err != nil {
				t.Error(err)
			}
			return len(list)
		}
		for want, vips := range []map[netip.Addr]bool{nil, {netip.MustParseAddr("10.0.0.101"): true}} {
			if err := routing.Add(); err != nil {
				t.Error(err)
			}
			r := routersLeft{left: []routerVIPs{at("10.0.0.100/24"), at("10.0.0.101/24")}}
			if err := r.takeOff(vips); err != nil {
				t.Error(err)
			}
			if n := count(); n != want {
				t.Errorf("with %v as VIPs still: %d routes, want %d", vips, n, want)
			}
		}
	})
}

// A VIP that a virtual router had, and the director has itself as of a start, stays as long as
// it is a VIP, and no longer: not when a reload takes it away, not at an end.
func TestVIPsOfAFormerRouter(t *testing.T) {
	address := netip.MustParseAddr("10.0.0.100")
	owner := vrrp.Instance{Name: "VI_1", Interface: "eth0", Priority: vrrp.OwnerPriority, Addresses: []netip.Prefix{netip.PrefixFrom(address, 24)}}
	for name, c := range map[string]struct {
		routers []vrrp.Instance // as of the start
		end     func(*heldVIPs) error
		stays   bool
	}{
		"reload":               {nil, func(h *heldVIPs) error { return h.Keep(nil) }, false},
		"end":                  {nil, func(h *heldVIPs) error { return errors.Join(h.routers.release(), h.release()) }, false},
		"reload of an owner's": {[]vrrp.Instance{owner}, func(h *heldVIPs) error { return h.Keep(nil) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			tb.InNamespace(t, func(t *testing.T, index int) {
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Error(err)
					}
				}
				has := func() bool {
					all, _, err := vip.List(index)
					must(err)
					return vip.Has(all, address)
				}
				_, err := vip.Add(index, owner.Addresses)
				must(err)
				left := &routersLeft{notes: jsonfile.NewKeeper(filepath.Join(t.TempDir(), "routers.json"), 0o600, must)}
				left.left = []routerVIPs{{Interface: "eth0", VIPs: owner.Addresses}}
				h := &heldVIPs{holder: vip.NewHolder(filepath.Join(t.TempDir(), "vips.json"), must), routers: left}
				must(h.Keep(map[netip.Addr]bool{address: true}))
				must(left.note(c.routers, false))
				_, err = h.holder.Hold([]vip.Place{{Interface: "eth0", Address: address}})
				must(err)
				if !has() {
					t.Error("the VIP went while it is one")
				}
				must(c.end(h))
				if stays := has(); stays != c.stays {
					t.Errorf("it is there: %v, want %v", stays, c.stays)
				}
			})
		})
	}
}

// A VIP that a virtual router of another interface has by now goes from where it was.
func TestVIPsOfARouterThatMoved(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		vips := []netip.Prefix{netip.MustParsePrefix("10.0.0.100/24")}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		_, err := vip.Add(index, vips)
		must(err)
		r := &routersLeft{notes: jsonfile.NewKeeper(filepath.Join(t.TempDir(), "routers.json"), 0o600, must)}
		r.left = []routerVIPs{{Interface: "eth0", VIPs: vips}}
		must(r.takeOff(map[netip.Addr]bool{vips[0].Addr(): true}))
		must(r.note([]vrrp.Instance{{Name: "VI_1", Interface: "eth1", Priority: 100, Addresses: vips}}, false))
		all, _, err := vip.List(index)
		must(err)
		if vip.Has(all, vips[0].Addr()) {
			t.Error("the VIP is still where it was")
		}
	})
}
