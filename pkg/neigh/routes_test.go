package neigh

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The route that the kernel takes comes first; what it never takes is not there.
func TestSortRoutes(t *testing.T) {
	route := func(to, gateway string, priority int, change func(*netlink.Route)) netlink.Route {
		r := netlink.Route{Type: unix.RTN_UNICAST, Priority: priority, Gw: net.ParseIP(gateway)}
		if to != "default" {
			_, r.Dst, _ = net.ParseCIDR(to)
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	got := sortRoutes([]netlink.Route{
		route("default", "192.0.2.254", 100, nil),
		route("default", "192.0.2.253", 0, nil),
		route("192.0.2.0/24", "", 0, nil),
		route("198.18.0.0/15", "192.0.2.4", 0, func(r *netlink.Route) { r.MTU = 1400 }),
		route("198.51.100.0/24", "192.0.2.1", 0, nil),
		route("198.51.100.128/25", "192.0.2.2", 0, func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE }),
		route("198.19.0.0/24", "192.0.2.5", 0, func(r *netlink.Route) { r.MTU, r.Tos = 1300, 8 }),
		route("203.0.113.0/24", "192.0.2.3", 0, func(r *netlink.Route) { r.MultiPath = []*netlink.NexthopInfo{{}} }),
	})
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	want := []Route{
		{To: prefix("198.51.100.128/25")}, {To: prefix("192.0.2.0/24")}, {To: prefix("198.19.0.0/24")}, {To: prefix("198.51.100.0/24"), Gateway: addr("192.0.2.1")},
		{To: prefix("203.0.113.0/24")}, {To: prefix("198.18.0.0/15"), Gateway: addr("192.0.2.4"), MTU: 1400}, {To: prefix("0.0.0.0/0"), Gateway: addr("192.0.2.253")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
