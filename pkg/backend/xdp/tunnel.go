package xdp

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// tunnelOverhead is how much longer an IPv4 packet is in another one.
const tunnelOverhead = ipv4Len

// protocolIPIP is what an outer header says of its contents (RFC 2003).
const protocolIPIP = 4

// methods maps ways of forwarding to the packet path's.
var methods = map[lb.Forward]bpf.ForwardMethod{lb.DR: bpf.ForwardDr, lb.NAT: bpf.ForwardNat, lb.Tunnel: bpf.ForwardIpip}

// forwardOf is the inverse of methods.
var forwardOf = func() map[bpf.ForwardMethod]lb.Forward {
	inverse := map[bpf.ForwardMethod]lb.Forward{}
	for forward, method := range methods {
		inverse[method] = forward
	}
	return inverse
}()

// overhead is what r's way of forwarding adds to every packet.
func (r *real) overhead() int {
	if r.conf.Forward == lb.Tunnel {
		return tunnelOverhead
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
		near.Err = whyNot(conf, near)
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
func whyNot(conf lb.Real, near Neighbor) string {
	switch {
	case near.Local && conf.Forward == lb.NAT && conf.Port != 0:
		return whyNotMapped(conf.Addr)
	case near.Local:
		return ""
	case conf.Forward == lb.DR && near.Gateway.IsValid():
		return conf.Addr.String() + " is behind the gateway " + near.Gateway.String() +
			", not on the segment of " + near.Device + " (direct routing cannot reach it; forward: ipip can)"
	case conf.Forward == lb.Tunnel && !near.From.Is4():
		return near.Device + " has no IPv4 address that is not a VIP (the outer header of a tunnel needs one)"
	}
	return ""
}

// tunnelTo works out what the outer headers of packets for r have in common.
func tunnelTo(r *real) bpf.Tunnel {
	if !r.near.From.IsValid() { // it was never reached
		return bpf.Tunnel{}
	}
	return bpf.Tunnel{
		Source: bpf.AddressOf(r.near.From), Destination: bpf.AddressOf(r.conf.Addr),
		Sum: constantSum(r.near.From, r.conf.Addr),
	}
}

// constantSum is the sum of an outer header's words without length, TOS,
// identification, flags and TTL, as the packet path adds them up: in native
// order, not folded.
func constantSum(source, destination netip.Addr) (sum uint32) {
	h := outerHeader(source, destination)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.NativeEndian.Uint16(h[i:]))
	}
	return sum
}

// outerHeader is an outer header without what the inner one decides.
func outerHeader(source, destination netip.Addr) []byte {
	h := make([]byte, ipv4Len)
	h[0], h[9] = 0x45, protocolIPIP
	s, d := source.As4(), destination.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	return h
}

// encapsulate does to a frame, whose IPv4 header is at an offset, what
// bpf/tunnel.h does. It is a fragment, so that nothing forbids to fragment
// the outer packet.
func encapsulate(frame []byte, at int, t *bpf.Tunnel, id uint16) []byte {
	inner := frame[at:]
	h := outerHeader(t.Source.Addr(), t.Destination.Addr())
	h[1], h[8] = inner[1], inner[8]
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+int(binary.BigEndian.Uint16(inner[2:]))))
	binary.BigEndian.PutUint16(h[4:], id)
	h[6] = inner[6] & 0x40
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	out := append(make([]byte, 0, len(frame)+ipv4Len), frame[:at]...)
	return append(append(out, h...), inner...)
}
