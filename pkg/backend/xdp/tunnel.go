package xdp

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// What outer headers say of their contents, and GUE of its own (IANA).
const (
	protocolIPIP = 4
	protocolUDP  = 17
	protocolIPv6 = 41
	protocolGRE  = 47
)

// Lengths of the headers between an outer IP header and the packet.
const (
	gueLen = 8 + 4 // UDP's, and GUE's
	greLen = 4
)

// way is how packets get to a real.
type way struct {
	forward lb.Forward
	kind    lb.EncapKind // of a tunnel
}

// methods maps ways of forwarding to the packet path's.
var methods = map[way]bpf.ForwardMethod{
	{}: bpf.ForwardDr, {forward: lb.NAT}: bpf.ForwardNat,
	{forward: lb.Tunnel}: bpf.ForwardIpip, {lb.Tunnel, lb.GUE}: bpf.ForwardGue, {lb.Tunnel, lb.GRE}: bpf.ForwardGre,
}

// wayOf is the inverse of methods.
var wayOf = func() map[bpf.ForwardMethod]way {
	inverse := map[bpf.ForwardMethod]way{}
	for w, method := range methods {
		inverse[method] = w
	}
	return inverse
}()

// isTunnel reports whether packets go inside others by a method.
func isTunnel(m bpf.ForwardMethod) bool { return wayOf[m].forward == lb.Tunnel }

// methodOf is how the packet path sends packets to a real.
func methodOf(conf lb.Real) bpf.ForwardMethod { return methods[way{conf.Forward, conf.Encap.Kind}] }

// overhead is what r's way of forwarding adds to every packet.
func (r *real) overhead() int {
	if r.conf.Forward == lb.Tunnel {
		return r.conf.Encap.Kind.Overhead(r.conf.Addr)
	}
	return 0
}

// mtu is the longest packet that may be sent to r.
func (r *real) mtu() uint16 {
	way := r.near.MTU
	if way <= 0 || way > 0xffff {
		way = 0xffff
	}
	return uint16(max(way-r.overhead(), 0))
}

// findWay looks up how packets get to a real by its way of forwarding.
func (b *Backend) findWay(conf lb.Real) Neighbor {
	near := b.neigh.Lookup(conf.Addr)
	if near.Err == "" {
		near.Err = b.whyNot(conf, near)
	}
	if near.Err == "" && conf.Forward == lb.NAT && !near.Local && !b.serves(near.Device) {
		near.Err = whyNotServed(conf.Addr, near.Device)
	}
	return near
}

// serves reports whether the packet path is attached to an interface.
func (b *Backend) serves(device string) bool {
	return slices.ContainsFunc(b.dp.Attachments, func(a loader.Attachment) bool { return slices.Contains(a.Names(), device) })
}

// whyNot says why packets cannot get to r by its way of forwarding, although
// near says how frames reach it: "" if they can.
func (b *Backend) whyNot(conf lb.Real, near Neighbor) string {
	switch {
	case near.Local && conf.Forward == lb.NAT && conf.Port != 0:
		return whyNotMapped(conf.Addr)
	case near.Local:
		return ""
	case conf.Forward == lb.DR && near.Gateway.IsValid():
		return conf.Addr.String() + " is behind the gateway " + near.Gateway.String() +
			", not on the segment of " + near.Device + " (direct routing cannot reach it; forward: ipip can)"
	case conf.Forward == lb.Tunnel && !b.state.OuterSource(conf.Addr).IsValid() && (!near.From.IsValid() || near.From.Is4() != conf.Addr.Is4()):
		return near.Device + " has no " + protocolName(conf.Addr) + " address that is not a VIP (the outer header of a tunnel needs one, or outer_source)"
	}
	return ""
}

// protocolName is what the protocol of an address is called.
func protocolName(a netip.Addr) string {
	if a.Is6() {
		return "IPv6"
	}
	return "IPv4"
}

// tunnelTo works out what the outer headers of packets for r have in common.
func (b *Backend) tunnelTo(r *real) bpf.Tunnel {
	source, spread := r.near.From, uint32(0)
	if p := b.state.OuterSource(r.conf.Addr); p.IsValid() {
		source, spread = p.Addr(), ^uint32(0)>>max(p.Bits()-(p.Addr().BitLen()-32), 0)
	}
	if !source.IsValid() { // it was never reached
		return bpf.Tunnel{}
	}
	t := bpf.Tunnel{
		Source: bpf.AddressOf(source), Spread: bpf.LongWord(spread), Destination: bpf.AddressOf(r.conf.Addr), Port: bpf.PortWord(r.conf.Encap.Port),
	}
	if r.conf.Addr.Is6() {
		t.IsIpv6 = 1
		return t
	}
	t.Sum = constantSum(source, r.conf.Addr)
	return t
}

// constantSum is the sum of an outer header's words without length, TOS,
// identification, flags and TTL, as the packet path adds them up: in native
// order, not folded, of IPIP.
func constantSum(source, destination netip.Addr) (sum uint32) {
	h := outerHeader(source, destination)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.NativeEndian.Uint16(h[i:]))
	}
	return sum
}

// outerHeader is an outer header of IPIP without what the inner one decides.
func outerHeader(source, destination netip.Addr) []byte {
	h := make([]byte, ipv4Len)
	h[0], h[9] = 0x45, protocolIPIP
	s, d := source.As4(), destination.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	return h
}

// outerSourceOf is the address that outer headers of a flow come from (bpf/tunnel.h's
// host_of).
func outerSourceOf(t *bpf.Tunnel, spread uint32) netip.Addr {
	source := t.Source
	host := spread & t.Spread
	if host == 0 || host == t.Spread {
		host ^= t.Spread & bpf.LongWord(1)
	}
	source.Word[3] |= host
	return source.Addr()
}

// encapsulate does to a frame, whose IPv4 header is at an offset, what
// bpf/tunnel.h does. It is a fragment without ports, so that nothing forbids to
// fragment the outer packet.
func encapsulate(frame []byte, at int, method bpf.ForwardMethod, t *bpf.Tunnel, id uint16) []byte {
	inner := frame[at:]
	length := int(binary.BigEndian.Uint16(inner[2:]))
	spread := spreadOf(inner)
	source := outerSourceOf(t, spread)
	protocol, between := byte(protocolIPIP), []byte(nil)
	switch method {
	case bpf.ForwardGue:
		protocol, between = protocolUDP, make([]byte, gueLen)
		binary.BigEndian.PutUint16(between, uint16(bpf.SpreadPorts)|uint16(spread>>18))
		binary.BigEndian.PutUint16(between[2:], bpf.PortWord(t.Port))
		binary.BigEndian.PutUint16(between[4:], uint16(gueLen+length))
		between[9] = protocolIPIP
	case bpf.ForwardGre:
		protocol, between = protocolGRE, []byte{0, 0, 0x08, 0}
	}
	head := slices.Clone(frame[:at])
	if t.IsIpv6 != 0 {
		binary.BigEndian.PutUint16(head[at-2:], unix.ETH_P_IPV6)
		outer := outerHeader6(source, t.Destination.Addr())
		outer[0], outer[1], outer[6], outer[7] = 0x60|inner[1]>>4, inner[1]<<4, protocol, inner[8]
		binary.BigEndian.PutUint16(outer[4:], uint16(len(between)+length))
		return slices.Concat(head, outer, between, inner)
	}
	outer := outerHeader(source, t.Destination.Addr())
	outer[1], outer[8], outer[9] = inner[1], inner[8], protocol
	binary.BigEndian.PutUint16(outer[2:], uint16(ipv4Len+len(between)+length))
	binary.BigEndian.PutUint16(outer[4:], id)
	outer[6] = inner[6] & 0x40
	binary.BigEndian.PutUint16(outer[10:], checksum(outer))
	return slices.Concat(head, outer, between, inner)
}

// outerHeader6 is an outer header of IPv6 that has its addresses alone.
func outerHeader6(source, destination netip.Addr) []byte {
	s, d := source.As16(), destination.As16()
	return slices.Concat(make([]byte, 8), s[:], d[:])
}

// spreadOf is bpf/tunnel.h's spread_of for a packet of IPv4 without ports.
func spreadOf(packet []byte) uint32 {
	hash := binary.BigEndian.Uint32(packet[12:]) * 0x85ebca6b
	return hash ^ hash>>15
}
