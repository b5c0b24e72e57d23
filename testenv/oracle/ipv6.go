package oracle

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// decide6 is decide for a frame of an EtherType of IPv6 behind at most two tags.
func (d *Director) decide6(frame []byte) Outcome {
	if len(frame) < 14+40 {
		return passed("malformed")
	}
	if target, ok := solicited(frame); ok {
		if d.vip(target).Standby || d.isLeaseOver(target) {
			return dropped("arp_silenced")
		}
		return passed("not_our_mac")
	}
	if !bytes.Equal(frame[:6], d.world.MAC[:]) {
		return passed("not_our_mac")
	}
	p, ok := parseIPv6(frame, offset6(frame))
	if !ok {
		return passed("malformed")
	}
	if !d.owns(p.dst) {
		return passed("not_ours")
	}
	if isMartian6(p.src) {
		return passed("martian")
	}
	if o, serve := d.role(p); !serve {
		return o
	}
	switch {
	case p.proto != 6 && p.proto != 17 && p.proto != 58, p.proto == 58 && (p.more || p.offset > 0):
		return passed("other_protocol")
	case p.proto == 58:
		return d.icmpError6(p)
	case p.offset > 0:
		return d.laterFragment(p)
	}
	o := d.balance(p)
	if slices.Contains([]string{"no_flow", "no_listener", "moved"}, o.Verdict) {
		o.Twin = d.twin(p)
	}
	if p.more {
		d.note(p, o)
	}
	return o
}

// twin is what becomes of a bare ACK without a connection, where it opens none,
// if it is taken for one of an established connection whose client has the same
// name: it reaches that connection's real, which resets it. Nil if none is.
func (d *Director) twin(p packet) func() Outcome {
	l4 := p.payload()
	if p.proto != 6 || d.state.SloppyTCP || len(l4) < 20 || l4[13]&0x17 != 0x10 {
		return nil
	}
	src, dst := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	for k, f := range d.flows {
		if k.proto == lb.TCP && d.world.Name(k.client.Addr()) == d.world.Name(p.src) && k.client.Port() == src &&
			k.vip == netip.AddrPortFrom(p.dst, dst) && f.proven && f.state == "ESTABLISHED" && !d.expired(f) && f.real.reachable() {
			return func() Outcome {
				f.seen = d.now
				return d.send(p, f.real, false, false)
			}
		}
	}
	return nil
}

// solicited is the target of a neighbour solicitation (RFC 4861).
func solicited(frame []byte) (target netip.Addr, ok bool) {
	at := offset6(frame)
	if at == 0 || len(frame) < at+40+24 || frame[at+6] != 58 || frame[at+40] != 135 {
		return target, false
	}
	return netip.AddrFrom16([16]byte(frame[at+48 : at+64])), true
}

// offset6 finds IPv6 behind at most two VLAN tags, 0 if it is not there.
func offset6(frame []byte) int { return offsetOf(frame, 0x86dd) }

// chain follows extension headers, eight at most: from the kind and offset of
// the first to those of what they are in front of.
type chain struct {
	next   byte
	at     int
	offset int
	more   bool
	id     uint32
}

func (c *chain) follow(frame []byte) bool {
	for n := 0; ; n++ {
		if !slices.Contains([]byte{0, 43, 44, 51, 60}, c.next) {
			return true
		}
		if n == 8 || c.at+8 > len(frame) {
			return false
		}
		h := frame[c.at:]
		size := (int(h[1]) + 1) * 8
		switch c.next {
		case 44:
			size = 8
			word := binary.BigEndian.Uint16(h[2:])
			c.offset, c.more, c.id = int(word&^7), word&1 != 0, binary.BigEndian.Uint32(h[4:])
		case 51:
			size = (int(h[1]) + 2) * 4
		}
		c.next, c.at = h[0], c.at+size
		if c.offset > 0 {
			return true
		}
	}
}

func parseIPv6(frame []byte, at int) (packet, bool) {
	if at+40 > len(frame) || frame[at]>>4 != 6 {
		return packet{}, false
	}
	h := frame[at:]
	c := chain{next: h[6], at: at + 40}
	ok := c.follow(frame)
	p := packet{
		frame: frame, ip: at, header: c.at - at, length: 40 + int(binary.BigEndian.Uint16(h[4:])),
		id: c.id, df: true, more: c.more, offset: c.offset, ttl: int(h[7]), proto: c.next,
		src: netip.AddrFrom16([16]byte(h[8:24])), dst: netip.AddrFrom16([16]byte(h[24:40])),
	}
	return p, ok && p.header <= p.length && c.at <= 2047 && at+p.length <= len(frame)
}

// isMartian6 reports whether every stack drops packets from an address
// (ip6_rcv_core); nobody can be answered at the unspecified one.
func isMartian6(a netip.Addr) bool {
	return a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a.Is4In6()
}

func (d *Director) icmpError6(p packet) Outcome {
	if d.isOwn(p.src) {
		return passed("martian")
	}
	m := p.payload()
	if len(m) < 8 {
		return passed("malformed")
	}
	if m[0] < 1 || m[0] > 4 {
		return passed("other_protocol")
	}
	q := m[8:]
	if len(q) < 40 || q[0]>>4 != 6 || netip.AddrFrom16([16]byte(q[8:24])) != p.dst {
		return passed("icmp_no_flow")
	}
	c := chain{next: q[6], at: 40}
	if !c.follow(q) || c.offset != 0 || c.at+8 > len(q) {
		return passed("icmp_no_flow")
	}
	k := tuple{
		proto:  lb.Protocol(c.next),
		client: netip.AddrPortFrom(netip.AddrFrom16([16]byte(q[24:40])), binary.BigEndian.Uint16(q[c.at+2:])),
		vip:    netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(q[c.at:])),
	}
	return d.quoted(p, k)
}

// answer6 builds what icmpv6_send would send from the VIP: the packet, cut to
// 1280 bytes in all, behind an ICMPv6 header. typ and code are IPv4's.
func (d *Director) answer6(p packet, typ, code byte, mtu int, verdict string) Outcome {
	switch {
	case typ == 11:
		typ = 3
	case code == 4:
		typ, code = 2, 0
	default:
		typ, code = 1, 4
	}
	quoted := p.frame[p.ip : p.ip+min(p.length, 1280-48)]
	out := slices.Concat(p.frame[6:12], p.frame[0:6], p.frame[12:p.ip])
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, 58, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(8+len(quoted)))
	copy(ip[8:], quoted[24:40])
	copy(ip[24:], quoted[8:24])
	icmp := slices.Concat([]byte{typ, code, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted)
	pseudo := slices.Concat(ip[8:40], []byte{0, 0, byte(len(icmp) >> 8), byte(len(icmp)), 0, 0, 0, 58}, icmp)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(pseudo))
	return Outcome{Verdict: verdict, Action: Transmit, Frame: slices.Concat(out, ip, icmp)}
}
