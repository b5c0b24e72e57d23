package testenv

import (
	"fmt"
	"net/netip"
)

// VIP is the virtual address of the standard network. No host has it: who
// serves it puts it on.
var VIP = netip.MustParseAddr("172.25.0.100")

// Addresses of the standard network.
var (
	segment   = netip.MustParsePrefix("172.25.0.0/24")
	wan       = netip.MustParsePrefix("10.25.0.0/24")
	routerIn  = netip.MustParseAddr("172.25.0.1")
	routerOut = netip.MustParseAddr("10.25.0.1")
	// directors and reals begin as in the field's own examples.
	directors = []byte{11, 14}
	reals     = []byte{12, 13}
)

// Shape says how the standard network looks. The zero Shape is a client
// "client" (172.25.0.50), directors "d1" (172.25.0.11) and "d2" (172.25.0.14)
// and reals "r1" (172.25.0.12) and "r2" (172.25.0.13) on one switch.
type Shape struct {
	Directors int // default 2
	Reals     int // default 2, at most 30; "r3" is 172.25.0.15, "r4" 172.25.0.16 and so on

	// Routed puts the client into a network of its own (10.25.0.50) behind
	// a host "router" (172.25.0.1), the default gateway of all others.
	Routed bool

	MTU int // of every NIC; default 1500
}

// Standard gives the options of the standard network.
func Standard(s Shape) Options {
	if s.Directors == 0 {
		s.Directors = len(directors)
	}
	if s.Reals == 0 {
		s.Reals = len(reals)
	}
	nic := func(last byte, director bool) NIC {
		a := segment.Addr().As4()
		a[3] = last
		return NIC{
			Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(a), segment.Bits())},
			MTU:   s.MTU, XDPPeer: director, FullChecksum: director,
		}
	}
	var o Options
	if s.Routed {
		o.Hosts = append(o.Hosts, routed(s.MTU)...)
	} else {
		n := nic(50, false)
		n.FullChecksum = true // its packets reach native XDP on the director
		o.Hosts = append(o.Hosts, HostSpec{Name: "client", NICs: []NIC{n}})
	}
	for i := range s.Directors {
		o.Hosts = append(o.Hosts, HostSpec{Name: fmt.Sprintf("d%d", i+1), NICs: []NIC{nic(nth(directors, i, 200), true)}})
	}
	for i := range s.Reals {
		o.Hosts = append(o.Hosts, HostSpec{Name: fmt.Sprintf("r%d", i+1), NICs: []NIC{nic(nth(reals, i, 13), false)}})
	}
	if s.Routed {
		for i := range o.Hosts {
			if h := &o.Hosts[i]; h.Name != "client" && h.Name != "router" {
				h.Gateway = routerIn
			}
		}
	}
	return o
}

// nth is the last byte of the i-th address: from the list, then counted on
// from after.
func nth(list []byte, i int, after byte) byte {
	if i < len(list) {
		return list[i]
	}
	return after + byte(i)
}

// routed is a client behind a router.
func routed(mtu int) []HostSpec {
	at := func(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, 24)} }
	client := netip.MustParseAddr("10.25.0.50")
	return []HostSpec{
		{Name: "client", Gateway: routerOut, NICs: []NIC{{Switch: "wan", Addrs: at(client), MTU: mtu, FullChecksum: true}}},
		{Name: "router", Forward: true, NICs: []NIC{
			{Addrs: at(routerIn), MTU: mtu, FullChecksum: true},
			{Switch: "wan", Addrs: at(routerOut), MTU: mtu, FullChecksum: true},
		}},
	}
}

// SetHopMTU makes the router of a routed standard network behave like a hop
// with a smaller MTU, in both directions: it answers longer packets that must
// not be fragmented with ICMP "fragmentation needed". 0 undoes it.
func (c *Cluster) SetHopMTU(mtu int) error {
	router := c.Host("router")
	if router == nil {
		return fmt.Errorf("hop MTU: no router in this network (set Shape.Routed)")
	}
	for _, r := range []Route{{To: segment, NIC: "eth0", MTU: mtu}, {To: wan, NIC: "eth1", MTU: mtu}} {
		if err := router.SetRoute(r); err != nil {
			return err
		}
	}
	return nil
}
