package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// A virtual router's VIP goes where its network is, unless the file names an
// interface.
func TestFault05PlacesOfVIPs(t *testing.T) {
	prefix := netip.MustParsePrefix
	networks := vip.Networks{
		"eth0": {prefix("192.0.2.1/24"), prefix("2001:db8::1/64")},
		"eth1": {prefix("198.51.100.1/24"), prefix("192.0.2.100/24")}, // a VIP, put there before
		"eth2": {prefix("192.0.2.129/25")},
	}
	for name, c := range map[string]struct {
		router string
		named  map[netip.Addr]string
		vip    string
		want   string
	}{
		"its own network":             {"eth0", nil, "192.0.2.101/24", "eth0"},
		"another's network":           {"eth1", nil, "192.0.2.101/24", "eth0"},
		"a VIP is no network":         {"eth1", nil, "192.0.2.100/24", "eth0"},
		"the smallest network":        {"eth1", nil, "192.0.2.200/24", "eth2"},
		"nobody's network":            {"eth1", nil, "203.0.113.1/24", "eth1"},
		"IPv6":                        {"eth1", nil, "2001:db8::100/64", "eth0"},
		"the file's word":             {"eth1", map[netip.Addr]string{netip.MustParseAddr("203.0.113.1"): "eth2"}, "203.0.113.1/24", "eth2"},
		"the file names the router's": {"eth1", map[netip.Addr]string{netip.MustParseAddr("192.0.2.101"): "eth1"}, "192.0.2.101/24", "eth1"},
	} {
		t.Run(name, func(t *testing.T) {
			at := vrrp.Instance{Name: "A", Interface: c.router, Addresses: []netip.Prefix{prefix(c.vip)}, Devices: c.named}
			other := vrrp.Instance{Name: "B", Interface: "eth1", Addresses: []netip.Prefix{prefix("192.0.2.100/24")}}
			got := placeVIPs([]vrrp.Instance{at, other}, []string{"eth0", "eth1", "eth2"}, networks)
			want := []vrrp.Place{{Interface: c.want, VIPs: at.Addresses}}
			if d := cmp.Diff(want, got[0].Places(), netipCompared); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if len(c.named) == 0 && at.Devices != nil {
				t.Errorf("the configuration was changed: %v", at.Devices)
			}
		})
	}
}

var netipCompared = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
