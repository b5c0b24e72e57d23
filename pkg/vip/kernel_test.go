package vip

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv/tb"
)

func parse(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, text := range texts {
		ps = append(ps, netip.MustParsePrefix(text))
	}
	return ps
}

// v4of lists the IPv4 addresses of an interface, sorted.
func v4of(t *testing.T, index int) []netip.Prefix {
	t.Helper()
	ps, _, err := List(index)
	if err != nil {
		t.Error(err)
	}
	ps = slices.DeleteFunc(ps, func(p netip.Prefix) bool { return !p.Addr().Is4() })
	slices.SortFunc(ps, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return ps
}

func wantAddrs(t *testing.T, index int, want ...string) {
	t.Helper()
	if got := v4of(t, index); !slices.Equal(got, parse(want...)) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}

func TestAddresses(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		_, err := Add(index, parse("10.99.0.1/24"))
		must(err)
		n, err := Add(index, parse("10.99.0.100/24", "10.99.0.101/32", "fd99::100/64"))
		if must(err); n != 3 {
			t.Errorf("%d added, want 3", n)
		}
		n, err = Add(index, parse("10.99.0.100/32", "10.99.0.102/24"))
		if must(err); n != 1 {
			t.Errorf("%d added, want 1: the other is adopted with the prefix length it has", n)
		}
		wantAddrs(t, index, "10.99.0.1/24", "10.99.0.100/24", "10.99.0.101/32", "10.99.0.102/24")
		must(Remove(index, parse("10.99.0.100/32", "10.99.0.101/24", "10.99.0.200/24")))
		wantAddrs(t, index, "10.99.0.1/24", "10.99.0.102/24")
		must(Remove(index, parse("10.99.0.100/32")))
		if _, err := Add(9999, parse("10.99.0.100/32")); err == nil {
			t.Error("no error for an interface that is not there")
		}
		must(Remove(9999, parse("10.99.0.100/32")))
	})
}

// The kernel makes an IPv6 address local when a work queue has come to it: a
// packet that arrives before is lost.
func TestIPv6AddressesAreLocalAtOnce(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		var ps []netip.Prefix
		for i := range 200 {
			ps = append(ps, parse(fmt.Sprintf("fd99::%x/64", 0x100+i))...)
		}
		if _, err := Add(index, ps); err != nil {
			t.Error(err)
		}
		for _, p := range slices.Backward(ps) {
			routes, err := netlink.RouteGet(p.Addr().AsSlice())
			if err != nil || len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
				t.Errorf("the kernel routes %s by %v (%v), want itself", p, routes, err)
				return
			}
		}
		if err := Remove(index, ps); err != nil {
			t.Error(err)
		}
		left, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Error(err)
		}
		for _, r := range left {
			if a, _ := netip.AddrFromSlice(r.Dst.IP); ps[0].Contains(a) {
				t.Errorf("left: %v", r)
			}
		}
	})
}

// What this host says by itself comes from its own address: the kernel prefers the newest
// address of a network, and a /128 that is closer to the destination. A real server that
// has the VIP itself would take a question from it for its own.
func TestNothingComesFromVIPsByItself(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		l, err := netlink.LinkByIndex(index)
		if err != nil {
			t.Error(err)
			return
		}
		own := parse("fd99::1/64")[0]
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(own), Flags: unix.IFA_F_NODAD}); err != nil {
			t.Error(err)
		}
		if _, err := Add(index, parse("fd99::100/128", "fd99::200/64")); err != nil {
			t.Error(err)
		}
		for _, to := range parse("fd99::101/128", "fd99::2/128") {
			routes, err := netlink.RouteGet(to.Addr().AsSlice())
			if err != nil || len(routes) != 1 || !routes[0].Src.Equal(own.Addr().AsSlice()) {
				t.Errorf("the kernel routes %s by %v (%v), want it to come from %s", to, routes, err, own)
			}
		}
	})
}

// An address that the host has without lvx's local route, as one that somebody
// else put there, goes all the same.
func TestRemoveIPv6AddressWithoutRoute(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		l, err := netlink.LinkByIndex(index)
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(parse("fd99::100/64")[0])}); err != nil {
			t.Error(err)
		}
		if err := Remove(index, parse("fd99::100/64")); err != nil {
			t.Error(err)
		}
		if all, _, err := List(index); err != nil || Has(all, netip.MustParseAddr("fd99::100")) {
			t.Errorf("addresses %v, %v", all, err)
		}
	})
}

// The kernel drops secondary addresses with their primary one. Those that
// are not ours come back.
func TestDeletionOfAPrimarySparesOthers(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		for _, p := range parse("10.99.0.100/24", "10.99.0.1/24", "10.99.0.101/24") {
			if _, err := Add(index, []netip.Prefix{p}); err != nil {
				t.Error(err)
			}
		}
		if err := Remove(index, parse("10.99.0.100/24")); err != nil {
			t.Error(err)
		}
		wantAddrs(t, index, "10.99.0.1/24", "10.99.0.101/24")
	})
}

func TestManyAddresses(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		var ps []netip.Prefix
		for i := range 250 {
			ps = append(ps, netip.MustParsePrefix(fmt.Sprintf("10.99.1.%d/24", i+1)))
		}
		if n, err := Add(index, ps); n != 250 || err != nil {
			t.Errorf("%d added, %v", n, err)
		}
		if got := v4of(t, index); len(got) != 250 {
			t.Errorf("%d addresses", len(got))
		}
		if err := Remove(index, ps); err != nil {
			t.Error(err)
		}
		wantAddrs(t, index)
	})
}

// Virtual routers of one subnet come and go at the same time, and none
// brings back what another one has just given up.
func TestRemovalsAtTheSameTime(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		var wg sync.WaitGroup
		ns, err := netns.Get()
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		for i := range 8 {
			ps := parse(fmt.Sprintf("10.99.0.%d/24", 100+i))
			wg.Go(func() {
				runtime.LockOSThread()
				if err := netns.Set(ns); err != nil {
					t.Error(err)
				}
				for range 10 {
					if _, err := Add(index, ps); err != nil {
						t.Error(err)
					}
					if err := Remove(index, ps); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		wantAddrs(t, index)
	})
}

// One address the kernel refuses does not keep the others away.
func TestRefusedAddress(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		_, err := Add(index, []netip.Prefix{netip.MustParsePrefix("10.99.0.100/24"),
			netip.PrefixFrom(netip.MustParseAddr("ff02::1"), 64), netip.MustParsePrefix("10.99.0.101/24")})
		if err == nil {
			t.Error("a multicast address was accepted")
		}
		wantAddrs(t, index, "10.99.0.100/24", "10.99.0.101/24")
	})
}

// A moment in which the kernel cannot be asked is none in which an interface is gone: VIPs
// stay where they are, and go at the end.
func TestVIPsOutliveAMomentWithoutFiles(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		h := NewHolder(filepath.Join(t.TempDir(), "vips.json"), func(err error) { t.Error(err) })
		want := []Place{{"eth0", netip.MustParseAddr("10.99.0.100")}}
		if _, err := h.Hold(want); err != nil {
			t.Error(err)
		}
		var before unix.Rlimit
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &before); err != nil {
			t.Error(err)
			return
		}
		_ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Max: before.Max}, nil)
		_, holdErr := h.Hold(want)
		_, networksErr := ReadNetworks([]string{"eth0"})
		_ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil)
		if holdErr == nil || networksErr == nil {
			t.Errorf("errors %v and %v", holdErr, networksErr)
		}
		if !slices.Equal(h.Ours(), want) {
			t.Errorf("ours are %v", h.Ours())
		}
		if err := h.Release(); err != nil {
			t.Error(err)
		}
		wantAddrs(t, index)
	})
}

// An interface that was renamed keeps the VIPs that were put on it, and they go at the end.
func TestVIPsOfARenamedInterface(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		h := NewHolder(filepath.Join(t.TempDir(), "vips.json"), must)
		hold := func(iface string) {
			t.Helper()
			_, err := h.Hold([]Place{{iface, netip.MustParseAddr("10.99.0.100")}})
			must(err)
		}
		hold("eth0")
		link, err := netlink.LinkByIndex(index)
		must(err)
		must(netlink.LinkSetDown(link))
		must(netlink.LinkSetName(link, "wan0"))
		must(netlink.LinkSetUp(link))
		wantAddrs(t, index, "10.99.0.100/32")
		hold("wan0")
		must(h.Release())
		wantAddrs(t, index)
	})
}
