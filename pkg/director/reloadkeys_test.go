package director

import (
	"maps"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// What the file says beside addresses comes into force by a reload that changes
// nothing else, again and again: a real's MAC, and how a VIP is taken.
func TestFault09ReloadOfOneKey(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		for n := range 6 {
			next := configOf(service("web", 1))
			next.Services[0].ForceClaim = n%2 == 0
			if n%3 != 2 {
				next.MACs = map[netip.Addr][6]byte{server(1): {2, 0, 0, 0, 0, byte(n)}}
			}
			r.next = next
			if _, err := r.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.neigh.mu.Lock()
			if !maps.Equal(r.neigh.bound, next.MACs) {
				t.Errorf("reload %d: bound to %v, want %v", n, r.neigh.bound, next.MACs)
			}
			r.neigh.mu.Unlock()
			r.vips.mu.Lock()
			if len(r.vips.last) != 1 || r.vips.last[0].Force != next.Services[0].ForceClaim {
				t.Errorf("reload %d: VIPs are taken as %+v", n, r.vips.last)
			}
			r.vips.mu.Unlock()
		}
	})
}

// fullConfig has something in every field.
func fullConfig() *config.Config {
	c := configOf(service("web", 1))
	addr, prefix := netip.MustParseAddr("192.0.2.9"), netip.MustParsePrefix("192.0.2.0/24")
	c.Interfaces, c.Backend, c.XDPMode = []string{"eth0"}, config.BackendXDP, config.XDPNative
	c.VRRP = []vrrp.Instance{{Name: "A"}}
	c.RoleHooks = map[string]config.RoleHooks{"A": {}}
	c.Notify.Webhook = "http://192.0.2.1/"
	c.Admin.Listen, c.Tables.Flows = "127.0.0.1:9100", 1000
	c.Sync.Peers, c.BGP.ASN = []netip.Addr{addr}, 65010
	c.BFD = []bfd.Session{{Name: "r1"}}
	c.Timeouts, c.SloppyTCP, c.ExpireNodestConn, c.ExpireQuiescentTempl = lb.Timeouts{TCP: time.Minute}, true, true, true
	c.Deny, c.Allow, c.OuterSources, c.Peers = []netip.Prefix{prefix}, []netip.Prefix{prefix}, []netip.Prefix{prefix}, []netip.Addr{addr}
	c.MACs = map[netip.Addr][6]byte{addr: {2}}
	c.StateDir, c.PinDir, c.StopGrace, c.RuntimeEdits = "/s", "/p", time.Second, config.RefuseEdits
	svc := &c.Services[0]
	svc.Checks = [][]health.Spec{{{Type: health.TCP}}}
	svc.OnDown, svc.Own = config.Quiesce, []config.RealOverrides{{OnDown: config.Quiesce}}
	svc.Hooks.QuorumUp = [][]string{{"/bin/true"}}
	svc.Quorum, svc.Hysteresis, svc.ForceClaim = 3, 2, true
	return c
}

// lvx diff has a line for each thing that a configuration can say.
func TestFault09DiffSeesEveryKey(t *testing.T) {
	full := fullConfig()
	inBubble(t, full, func(t *testing.T, r *rig) {
		if lines, err := r.Diff(t.Context(), nil); err != nil || len(lines) > 0 {
			t.Errorf("nothing has changed, yet: %q, %v", lines, err)
		}
		isSeen := func(what string, next *config.Config) {
			r.next = next
			if lines, err := r.Diff(t.Context(), nil); err != nil || len(lines) == 0 {
				t.Errorf("%s changes, and diff says nothing (%v)", what, err)
			}
		}
		of := reflect.TypeOf(*full)
		for i := range of.NumField() {
			name := of.Field(i).Name
			if name == "Warnings" { // about the file
				continue
			}
			next := cloneConfig(full)
			v := reflect.ValueOf(next).Elem().Field(i)
			if v.IsZero() {
				t.Errorf("the test does not set %s", name)
			}
			v.SetZero()
			isSeen(name, next)
		}
		of = reflect.TypeOf(full.Services[0])
		for i := range of.NumField() {
			name := of.Field(i).Name
			if name == "Line" || name == "Service" { // lb.Diff's test is package lb's
				continue
			}
			next := cloneConfig(full)
			v := reflect.ValueOf(&next.Services[0]).Elem().Field(i)
			if v.IsZero() {
				t.Errorf("the test does not set %s of a service", name)
			}
			v.SetZero()
			isSeen(name+" of a service", next)
		}
	})
}
