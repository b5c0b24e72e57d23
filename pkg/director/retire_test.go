package director

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// A reload that takes a virtual router away with its services has the services in
// force until the router has given up its VIPs, and does not wait for ever.
func TestReloadRetiresVirtualRouters(t *testing.T) {
	for name, c := range map[string]struct {
		role  bool // of the router
		gives bool // its VIPs up
		took  time.Duration
	}{
		"master":            {true, true, time.Second},
		"master that hangs": {true, false, retireLimit},
		"backup":            {false, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configOf(service("web", 1))
			cfg.VRRP = []vrrp.Instance{{Name: "VI_1", VRID: 51, Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}}
			inBubble(t, cfg, func(t *testing.T, r *rig) {
				if c.role {
					if err := r.Activate("VI_1"); err != nil {
						t.Fatal(err)
					}
				}
				services := -1 // in force as the router gives up its VIPs
				r.vrrp.onSet = func(is []vrrp.Instance) {
					if !c.gives || len(is) > 0 || !c.role || services >= 0 {
						return
					}
					services = 0
					time.AfterFunc(time.Second, func() {
						services = len(r.state().Services)
						_ = r.Deactivate("VI_1")
					})
				}
				r.next = configOf()
				began := time.Now()
				if _, err := r.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("the reload took %s, want %s", took, c.took)
				}
				if c.role && c.gives && services != 1 {
					t.Errorf("%d services in force as the router gave up its VIPs", services)
				}
				if s := r.state(); len(s.Services)+len(s.VIPs) != 0 {
					t.Errorf("behind the reload %+v", s)
				}
			})
		})
	}
}

// A router whose address stays a VIP, of another router or of the host, is no
// handover.
func TestReloadKeepsAddressesOfRouters(t *testing.T) {
	cfg := configOf(service("web", 1))
	one := vrrp.Instance{Name: "VI_1", VRID: 51, Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}
	cfg.VRRP = []vrrp.Instance{one}
	other := one
	other.VRID = 52
	for name, routers := range map[string][]vrrp.Instance{"another router": {other}, "the host": nil} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(t *testing.T, r *rig) {
				if err := r.Activate("VI_1"); err != nil {
					t.Fatal(err)
				}
				before := len(r.vrrp.set)
				r.next = configOf(service("web", 1))
				r.next.VRRP = routers
				if _, err := r.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := len(r.vrrp.set) - before; n != 1 {
					t.Errorf("the routers were set %d times", n)
				}
			})
		})
	}
}

// A VIP leaves its interface before the data path forgets it: in between the kernel
// would reset connections.
func TestVIPsLeaveTheInterfaceFirst(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		if !slices.Contains(r.vips.now(), vip) {
			t.Fatal("the VIP is not held")
		}
		services := -1
		r.vips.onKeep = func(vips map[netip.Addr]bool) {
			if services < 0 && !vips[vip] {
				services = len(r.state().Services)
			}
		}
		r.next = configOf()
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if services != 1 {
			t.Errorf("%d services in force as the VIP left its interface", services)
		}
	})
}
