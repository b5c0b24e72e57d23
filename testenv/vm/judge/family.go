package judge

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// A family is what cases of one address family are drawn from.
type family struct {
	vips, clients []netip.Addr
	prefixes      []int // of persistence
	forwards      []lb.Forward
	real          func(n int) netip.Addr
	probe         func(serial int) netip.Addr // a client in a network of its own
}

// The families, of which a service has one.
var (
	ipv4 = &family{
		vips: addresses("10.0.0.100", "10.0.0.101", "10.0.0.102"),
		clients: addresses(
			"172.16.0.5", "172.16.0.77", "172.16.1.5", "192.0.2.1", "198.51.100.9", "203.0.113.200",
		),
		prefixes: []int{0, 0, 24, 20},
		forwards: []lb.Forward{lb.DR, lb.DR, lb.Tunnel, lb.NAT, lb.NAT},
		real:     onearm.Real,
		probe: func(serial int) netip.Addr {
			return netip.AddrFrom4([4]byte{11, byte(serial), byte(serial >> 8 << 4), 1}) // each in a /20 of its own
		},
	}
	ipv6 = &family{
		vips: addresses("2001:db8::100", "2001:db8::1:100", "fd00::102"),
		clients: addresses(
			"2001:db8:1::5", "2001:db8:1::77", "2001:db8:1:0:8000::5", "2001:db8:1:1::5", "2001:db8:8002::1", "fd00:0:1::9",
		),
		prefixes: []int{0, 0, 64, 48, 33},
		forwards: []lb.Forward{lb.DR, lb.DR, lb.Tunnel},
		real:     onearm.Real6,
		probe: func(serial int) netip.Addr {
			return netip.AddrFrom16([16]byte{0xfd, 0x11, byte(serial >> 8), byte(serial), 15: 1}) // each in a /32 of its own
		},
	}
)

// probes are the clients of probe packets; they are left out of comparisons.
var probes = []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8"), netip.MustParsePrefix("fd11::/16")}

func isProbe(client netip.Addr) bool {
	return probes[0].Contains(client) || probes[1].Contains(client)
}

func addresses(texts ...string) (as []netip.Addr) {
	for _, s := range texts {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// other is the family that tunnels lead to besides f.
func (f *family) other() *family {
	if f == ipv4 {
		return ipv6
	}
	return ipv4
}

// realNumber is which of onearm's reals has an address, 0 if none.
func realNumber(a netip.Addr) int {
	for n := 1; n <= onearm.Reals; n++ {
		if a == onearm.Real(n) || a == onearm.Real6(n) {
			return n
		}
	}
	return 0
}
