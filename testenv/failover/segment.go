// Package failover measures what it costs when one director takes over from
// another: a segment with two routers, of lvx or of keepalived, and probes
// that ask for the VIP all the time.
//
// It only measures; what is good enough is its tests' business.
package failover

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/testenv"
)

// VIP is the address that the routers share.
var VIP = netip.MustParseAddr("10.99.0.100")

// addrs are the hosts of a segment, with an interface eth0 each: the routers
// a and b, a client c, a host d that watches and attacks, real servers r1
// and r2.
var addrs = map[string]string{
	"a": "10.99.0.1/16", "b": "10.99.0.2/16", "c": "10.99.0.10/16", "d": "10.99.0.66/16",
	"r1": "10.99.0.21/16", "r2": "10.99.0.22/16",
}

// Segment is a switch with the hosts on it.
type Segment struct{ *testenv.Cluster }

// New builds a segment.
func New() (*Segment, error) {
	var o testenv.Options
	for _, name := range []string{"a", "b", "c", "d", "r1", "r2"} {
		router := name == "a" || name == "b"
		o.Hosts = append(o.Hosts, testenv.HostSpec{Name: name, NICs: []testenv.NIC{{
			Addrs: []netip.Prefix{netip.MustParsePrefix(addrs[name])}, XDPPeer: router, FullChecksum: router || name == "c",
		}}})
	}
	c, err := testenv.New(o)
	return &Segment{c}, err
}

// Addr is the address of a host.
func Addr(host string) netip.Addr { return netip.MustParsePrefix(addrs[host]).Addr() }

// addr6 is the IPv6 address that a host can be given: the last number is that of
// its IPv4 one.
func addr6(host string) netip.Addr {
	a := netip.MustParseAddr("fd99::").As16()
	a[15] = Addr(host).As4()[3]
	return netip.AddrFrom16(a)
}

// Has reports whether a host has an address on eth0.
func (s *Segment) Has(host string, addr netip.Addr) (bool, error) {
	h := s.Host(host)
	link, err := h.Netlink.LinkByName("eth0")
	if err != nil {
		return false, err
	}
	list, err := h.Netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(a netlink.Addr) bool {
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap() == addr
	}), nil
}

// Alone says, as an error, what is missing for one router to have the
// address and the other not.
func (s *Segment) Alone(with, without string, addr netip.Addr) error {
	for host, want := range map[string]bool{with: true, without: false} {
		got, err := s.Has(host, addr)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s on %s: %v, want %v", addr, host, got, want)
		}
	}
	return nil
}

// Unplug takes a host's cable out, or puts it in again: no carrier at either
// end.
func (s *Segment) Unplug(host string, out bool) error {
	return s.Switch().SetLink(host, !out)
}

// Block cuts a host off while its carrier stays, or ends that.
func (s *Segment) Block(ctx context.Context, host string, blocked bool) error {
	state := "forwarding"
	if blocked {
		state = "disabled"
	}
	_, err := s.Switch().Run(ctx, "bridge", "link", "set", "dev", host, "state", state)
	return err
}
