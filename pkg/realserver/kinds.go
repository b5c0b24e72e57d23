package realserver

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Tunnel is what the packets to a real server come in: a kind, "6" behind it if
// the outer header is one of IPv6, and of GUE a port behind a colon if it is
// not [lb.GUEPort]: "ipip", "gre6", "gue6:5555".
type Tunnel string

// IPIP is a packet in one of IPv4 (RFC 2003, RFC 4213).
const IPIP Tunnel = "ipip"

// parse finds out what a tunnel is made of; ok is false if lvx sets none up of
// this name.
func (t Tunnel) parse() (kind lb.EncapKind, isIPv6 bool, port int, ok bool) {
	word, number, hasPort := strings.Cut(string(t), ":")
	word, isIPv6 = strings.CutSuffix(word, "6")
	for k, name := range lb.EncapKinds {
		if name == word {
			kind, ok = lb.EncapKind(k), true
		}
	}
	if kind == lb.GUE {
		port = lb.GUEPort
	}
	if hasPort {
		n, err := strconv.ParseUint(number, 10, 16)
		port, ok = int(n), ok && kind == lb.GUE && err == nil && n != 0
	}
	return kind, isIPv6, port, ok
}

// IsTunnel reports whether lvx sets a tunnel up.
func (t Tunnel) IsTunnel() bool {
	_, _, _, ok := t.parse()
	return ok
}

// port is the port of UDP where packets in GUE come; 0 of another tunnel.
func (t Tunnel) port() int {
	_, _, port, _ := t.parse()
	return port
}

// family is that of the outer header.
func (t Tunnel) family() int {
	if _, isIPv6, _, _ := t.parse(); isIPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// outer is the protocol of the outer header.
func (t Tunnel) outer() string {
	if t.family() == unix.AF_INET6 {
		return "IPv6"
	}
	return "IPv4"
}

// contents says what comes in the tunnel for a VIP: "IPv4 in IPv6".
func (t Tunnel) contents(vip netip.Addr) string {
	inner := "IPv4"
	if vip.Is6() {
		inner = "IPv6"
	}
	if kind, _, _, _ := t.parse(); kind == lb.GRE {
		return inner + " in GRE over " + t.outer()
	}
	return inner + " in " + t.outer()
}

// overhead is how much longer a packet is in the tunnel.
func (t Tunnel) overhead() int {
	kind, isIPv6, _, _ := t.parse()
	if isIPv6 {
		return kind.Overhead(netip.IPv6Unspecified())
	}
	return kind.Overhead(netip.IPv4Unspecified())
}

// Devices of the kernel. Those that its modules make by themselves take packets
// from every director; but ip6tnl0 takes no IPv4, so that IPv6 gets one that is
// external, which takes both. Packets in GUE come out of their UDP port as
// if they had been in none, for the same devices.
const (
	inIPv4     = "tunl0"      // IPv4 in IPv4
	sixInFour  = "sit0"       // IPv6 in IPv4
	inIPv6     = "lvx-ip6tnl" // both in IPv6
	greInIPv4  = "gre0"       // both in GRE
	greInIPv6  = "ip6gre0"
	cureByPath = "use direct routing, or decapsulate before the kernel, for example with XDP"
)

// deviceKind says how to get a device.
type deviceKind struct {
	name   string // for people
	option string // of the kernel's configuration
	module string
	link   func(netlink.LinkAttrs) netlink.Link
}

var deviceKinds = map[string]deviceKind{
	inIPv4:    {"IPIP", "NET_IPIP", "ipip", func(a netlink.LinkAttrs) netlink.Link { return &netlink.Iptun{LinkAttrs: a} }},
	sixInFour: {"SIT", "IPV6_SIT", "sit", func(a netlink.LinkAttrs) netlink.Link { return &netlink.Sittun{LinkAttrs: a} }},
	inIPv6: {"ip6tnl", "IPV6_TUNNEL", "ip6_tunnel", func(a netlink.LinkAttrs) netlink.Link {
		return &netlink.Ip6tnl{LinkAttrs: a, FlowBased: true}
	}},
	greInIPv4: {"GRE", "NET_IPGRE", "ip_gre", func(a netlink.LinkAttrs) netlink.Link {
		return &netlink.Gretun{LinkAttrs: a, Local: net.IPv4zero, Remote: net.IPv4zero}
	}},
	greInIPv6: {"ip6gre", "IPV6_GRE", "ip6_gre", func(a netlink.LinkAttrs) netlink.Link {
		return &netlink.Gretun{LinkAttrs: a, Local: net.IPv6unspecified, Remote: net.IPv6unspecified}
	}},
}

// missing is the error of a kernel that cannot decapsulate.
func (k deviceKind) missing() error {
	return fmt.Errorf("this kernel has no %s device (CONFIG_%s; where it is a module: modprobe %s); %s", k.name, k.option, k.module, cureByPath)
}

// device is the one that lvx sets up for the tunnel's packets to a VIP.
func (t Tunnel) device(vip netip.Addr) string {
	kind, isIPv6, _, _ := t.parse()
	switch {
	case kind == lb.GRE && isIPv6:
		return greInIPv6
	case kind == lb.GRE:
		return greInIPv4
	case isIPv6:
		return inIPv6
	case vip.Is6():
		return sixInFour
	}
	return inIPv4
}

// isTakenBy reports whether a device takes the tunnel's packets to a VIP from
// every director.
func (t Tunnel) isTakenBy(link netlink.Link, vip netip.Addr) bool {
	device := t.device(vip)
	switch {
	case link.Attrs().Flags&unix.IFF_UP == 0:
		return false
	case link.Attrs().Name == device:
		return true
	}
	contents := uint8(unix.IPPROTO_IPIP)
	if vip.Is6() {
		contents = unix.IPPROTO_IPV6
	}
	takes := func(protocol uint8) bool { return protocol == 0 || protocol == contents }
	fromAll := func(remote net.IP) bool { return remote == nil || remote.IsUnspecified() }
	switch l := link.(type) {
	case *netlink.Iptun:
		return device == inIPv4 && takes(l.Proto) && (l.FlowBased || fromAll(l.Remote))
	case *netlink.Sittun:
		return device == sixInFour && takes(l.Proto) && fromAll(l.Remote)
	case *netlink.Ip6tnl:
		return device == inIPv6 && takes(l.Proto) && (l.FlowBased || fromAll(l.Remote))
	case *netlink.Gretun:
		return deviceKinds[device].link(netlink.LinkAttrs{}).Type() == l.Type() && l.IKey == 0 && (l.FlowBased || fromAll(l.Remote))
	}
	return false
}
