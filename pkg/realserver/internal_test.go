package realserver

import (
	"net"
	"testing"

	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestChoose(t *testing.T) {
	route := func(to string, index, metric int) netlink.Route {
		r := netlink.Route{LinkIndex: index, Priority: metric, Type: unix.RTN_UNICAST}
		if to != "" {
			_, r.Dst, _ = net.ParseCIDR(to)
		}
		return r
	}
	blackhole := route("172.25.0.0/28", 9, 0)
	blackhole.Type = unix.RTN_BLACKHOLE
	multi := route("172.25.0.0/24", 0, 0)
	multi.MultiPath = []*netlink.NexthopInfo{{LinkIndex: 7}}
	vip := netip.MustParseAddr("172.25.0.1")
	for name, c := range map[string]struct {
		routes []netlink.Route
		want   int
	}{
		"none":          {nil, 0},
		"other":         {[]netlink.Route{route("10.0.0.0/8", 2, 0)}, 0},
		"longest":       {[]netlink.Route{route("172.25.0.0/16", 2, 0), route("172.25.0.0/24", 3, 5), route("0.0.0.0/0", 4, 0)}, 3},
		"not to lo":     {[]netlink.Route{route("172.25.0.1/32", 1, 0), route("172.25.0.0/24", 3, 0)}, 3},
		"metric":        {[]netlink.Route{route("172.25.0.0/24", 2, 100), route("172.25.0.0/24", 3, 50)}, 3},
		"default":       {[]netlink.Route{route("", 2, 0)}, 2},
		"no blackhole":  {[]netlink.Route{blackhole, route("0.0.0.0/0", 4, 0)}, 4},
		"several hops":  {[]netlink.Route{multi}, 7},
		"first of same": {[]netlink.Route{route("172.25.0.0/24", 2, 0), route("172.25.0.0/24", 3, 0)}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := choose(c.routes, vip, 1); got != c.want {
				t.Errorf("interface %d, want %d", got, c.want)
			}
		})
	}
}

func TestKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := key{rapid.StringMatching(`[a-z0-9.@_-]{3,15}`).Draw(t, "scope"), rapid.SampledFrom([]string{"arp_ignore", "arp_announce"}).Draw(t, "name")}
		got, err := parseKey(k.String())
		if err != nil || got != k {
			t.Errorf("%q gives %v, %v", k, got, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add("net.ipv4.conf.eth0/7.arp_ignore")
	f.Add("net.ipv4.conf.///.arp_ignore")
	f.Add("net.ipv4.conf./..arp_ignore")
	f.Add("net.ipv4.conf.all.rp_filter")
	f.Add("kernel.core_pattern")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := parseKey(s)
		if err != nil {
			return
		}
		if again, err := parseKey(k.String()); err != nil || again != k {
			t.Errorf("%q: %v, then %v, %v", s, k, again, err)
		}
		if p := k.path(); len(p) <= len(confDir)+1 || p[:len(confDir)+1] != confDir+"/" {
			t.Errorf("%q leads to %s", s, p)
		}
	})
}
