package oracle

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// send counts a packet and sends it to a real. opens says that it opened a
// connection, icmp that it is an ICMP error.
func (d *Director) send(p packet, r *real, opens, icmp bool) Outcome {
	r.counters.InPkts++
	r.counters.InBytes += uint64(p.length)
	if opens {
		r.counters.Conns++
	}
	o := d.way(p, r, icmp)
	o.to = r
	return o
}

func (d *Director) way(p packet, r *real, icmp bool) Outcome {
	mtu := r.host.MTU
	if mtu == 0 {
		mtu = 0xffff
	}
	isTunnel := r.conf.Forward == lb.Tunnel
	if isTunnel {
		mtu -= overhead(r.conf)
	}
	// Generic XDP sees several packets as one, which is cut up again, but for tunnels.
	merged := d.world.Generic && p.length > d.world.MTU && !isTunnel
	isSilent := icmp || p.offset > 0 && p.src.Is4() // icmp_send
	switch {
	case r.host.Local:
		return passed("local")
	case p.ttl <= 1 && isSilent:
		return dropped("ttl_silent")
	case p.ttl <= 1:
		return d.answer(p, 11, 0, 0, "answered_ttl")
	case p.length > mtu && !merged && (isSilent || !p.df):
		return dropped("too_big")
	case p.length > mtu && !merged:
		return d.answer(p, 3, 4, mtu, "answered_too_big")
	}
	out := bytes.Clone(p.frame)
	copy(out, r.mac[:])
	copy(out[6:], r.host.Source[:])
	decreaseTTL(out[p.ip:])
	if r.conf.Forward == lb.NAT {
		d.translate(p, out, netip.AddrPortFrom(r.conf.Addr, r.conf.Port), false, icmp)
	}
	o := Outcome{Verdict: "forwarded", Action: Transmit, Frame: out}
	if isTunnel {
		source := d.state.OuterSource(r.conf.Addr)
		from := r.host.From
		if source.IsValid() {
			from = source.Addr()
		}
		o.Frame = encapsulate(p, out, r, from)
		if source.IsValid() && !source.IsSingleIP() {
			o.AnyFrom, o.Spread = p.ip+map[bool]int{true: 12, false: 8}[from.Is4()], source
		}
		if (!p.df || p.src.Is6()) && r.conf.Addr.Is4() {
			o.AnyID = p.ip
		}
		if r.conf.Encap.Kind == lb.GUE {
			o.AnyPort = p.ip + outerLen(r.conf)
		}
	}
	if icmp {
		o.Verdict = "icmp_forwarded"
	}
	if r.host.IfIndex != d.world.IfIndex {
		o.Action = Redirect
		if !icmp {
			o.Verdict = "redirected"
		}
	}
	return o
}

// outerLen is the length of the outer header of a tunnel to a real.
func outerLen(r lb.Real) int {
	if r.Addr.Is6() {
		return 40
	}
	return 20
}

// between is what stands between an outer header and the packet, without the port
// that GUE comes from, and the protocol that it is.
func between(e lb.Encap, inner []byte, length int) (protocol byte, header []byte) {
	carried, kind := byte(4), []byte{8, 0}
	if inner[0]>>4 == 6 {
		carried, kind = 41, []byte{0x86, 0xdd}
	}
	switch e.Kind {
	case lb.GUE:
		length += 8 + 4
		return 17, []byte{0, 0, byte(e.Port >> 8), byte(e.Port), byte(length >> 8), byte(length), 0, 0, 0, carried, 0, 0}
	case lb.GRE:
		return 47, []byte{0, 0, kind[0], kind[1]}
	}
	return carried, nil
}

// overhead is how much longer a packet is in a tunnel.
func overhead(r lb.Real) int {
	return outerLen(r) + map[lb.EncapKind]int{lb.GUE: 8 + 4, lb.GRE: 4}[r.Encap.Kind]
}

// encapsulate puts an outer header in front of a packet whose TTL is one less
// already (ip_vs_tunnel_xmit). It comes from source. Without DF its identification is 0 here.
func encapsulate(p packet, frame []byte, r *real, source netip.Addr) []byte {
	inner := frame[p.ip:]
	protocol, header := between(r.conf.Encap, inner, p.length)
	tos, ttl, df := inner[1], inner[8], inner[6]&0x40
	if p.src.Is6() {
		tos, ttl, df = inner[0]<<4|inner[1]>>4, inner[7], 0
	}
	head := slices.Clone(frame[:p.ip])
	if r.conf.Addr.Is6() {
		copy(head[p.ip-2:], []byte{0x86, 0xdd})
		length := len(header) + p.length
		outer := []byte{0x60 | tos>>4, tos << 4, 0, 0, byte(length >> 8), byte(length), protocol, ttl}
		from, to := source.As16(), r.conf.Addr.As16()
		return slices.Concat(head, outer, from[:], to[:], header, inner)
	}
	copy(head[p.ip-2:], []byte{8, 0})
	outer := []byte{0x45, tos, 0, 0, 0, 0, df, 0, ttl, protocol, 0, 0}
	from, to := source.As4(), r.conf.Addr.As4()
	outer = slices.Concat(outer, from[:], to[:])
	binary.BigEndian.PutUint16(outer[2:], uint16(outerLen(r.conf)+len(header)+p.length))
	binary.BigEndian.PutUint16(outer[10:], Checksum(outer))
	return slices.Concat(head, outer, header, inner)
}

// decreaseTTL takes one from the TTL of an IPv4 header, or from an IPv6 header's
// hop limit.
func decreaseTTL(ip []byte) {
	if ip[0]>>4 == 6 {
		ip[7]--
		return
	}
	// RFC 1624, equation 3, for the word of TTL and protocol.
	old := binary.BigEndian.Uint16(ip[8:])
	ip[8]--
	sum := uint32(^binary.BigEndian.Uint16(ip[10:])) + uint32(^old) + uint32(binary.BigEndian.Uint16(ip[8:]))
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum))
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// Checksum is the Internet checksum of b (RFC 1071).
func Checksum(b []byte) uint16 {
	sum := uint32(0)
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	return ^fold(sum)
}

// answer builds what icmp_send would send from the VIP: the packet, cut to
// 576 bytes in all, behind an ICMP header. The identification is 0 here.
func (d *Director) answer(p packet, typ, code byte, mtu int, verdict string) Outcome {
	if p.src.Is6() {
		return d.answer6(p, typ, code, mtu, verdict)
	}
	quoted := p.frame[p.ip : p.ip+min(p.length, 576-28)]
	out := slices.Concat(p.frame[6:12], p.frame[0:6], p.frame[12:p.ip])
	ip := make([]byte, 20)
	ip[0], ip[1], ip[8], ip[9] = 0x45, quoted[1]&0x1e|0xc0, 64, 1
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(quoted)))
	copy(ip[12:], quoted[16:20])
	copy(ip[16:], quoted[12:16])
	binary.BigEndian.PutUint16(ip[10:], Checksum(ip))
	icmp := slices.Concat([]byte{typ, code, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp))
	return Outcome{Verdict: verdict, Action: Transmit, Frame: slices.Concat(out, ip, icmp), AnyID: p.ip}
}
