package oracle

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// The kernel's two-way table ("INPUT" and "OUTPUT" of tcp_states,
// ip_vs_proto_tcp.c), as oneWay has it, with how long the states that only it
// knows last. What is not listed goes to CLOSE.
var (
	fromClient = map[string]map[string]string{
		"SYN": {
			"SYN_RECV": "SYN_RECV", "ESTABLISHED": "ESTABLISHED", "SYN_SENT": "ESTABLISHED", "FIN_WAIT": "SYN_RECV",
			"TIME_WAIT": "SYN_RECV", "CLOSE": "SYN_RECV", "CLOSE_WAIT": "SYN_RECV",
		},
		"FIN": {
			"SYN_RECV": "TIME_WAIT", "ESTABLISHED": "CLOSE_WAIT", "SYN_SENT": "SYN_SENT", "FIN_WAIT": "TIME_WAIT",
			"TIME_WAIT": "TIME_WAIT", "CLOSE_WAIT": "CLOSE_WAIT",
		},
		"ACK": {
			"SYN_RECV": "ESTABLISHED", "ESTABLISHED": "ESTABLISHED", "SYN_SENT": "SYN_SENT", "FIN_WAIT": "FIN_WAIT",
			"TIME_WAIT": "TIME_WAIT", "CLOSE_WAIT": "CLOSE_WAIT",
		},
		"RST": {"SYN_RECV": "SYN_RECV"},
	}
	fromReal = map[string]map[string]string{
		"SYN": {
			"SYN_RECV": "SYN_RECV", "ESTABLISHED": "ESTABLISHED", "SYN_SENT": "SYN_SENT", "FIN_WAIT": "SYN_SENT",
			"TIME_WAIT": "SYN_SENT", "CLOSE": "SYN_SENT", "CLOSE_WAIT": "SYN_SENT",
		},
		"FIN": {
			"SYN_RECV": "TIME_WAIT", "ESTABLISHED": "FIN_WAIT", "SYN_SENT": "SYN_SENT", "FIN_WAIT": "FIN_WAIT",
			"TIME_WAIT": "TIME_WAIT", "CLOSE_WAIT": "TIME_WAIT",
		},
		"ACK": {
			"SYN_RECV": "ESTABLISHED", "ESTABLISHED": "ESTABLISHED", "SYN_SENT": "SYN_SENT", "FIN_WAIT": "FIN_WAIT",
			"TIME_WAIT": "TIME_WAIT", "CLOSE_WAIT": "CLOSE_WAIT",
		},
		"RST": {"SYN_SENT": "SYN_SENT", "TIME_WAIT": "TIME_WAIT"},
	}
	// What one way of forwarding makes of another's states, once a real's is edited.
	seenOneWay = map[string]string{"SYN_SENT": "SYN_RECV", "CLOSE_WAIT": "TIME_WAIT"}
)

// progress is the state of a flow behind a packet of its client, or of its real.
func progress(f *flow, proto lb.Protocol, flags byte, isReply bool) string {
	table := fromClient
	switch {
	case f.real.conf.Forward != lb.NAT || proto == lb.UDP:
		return next(proto, cmp.Or(seenOneWay[f.state], f.state), flags)
	case isReply:
		table = fromReal
	}
	return cmp.Or(table[kindOf(flags)][f.state], "CLOSE")
}

// natTo is where a real gets by NAT what is for a port of a VIP.
func (r *real) natTo(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(r.conf.Addr, cmp.Or(r.conf.Port, port))
}

// portFor is where a real gets what is for a port of a VIP: by NAT alone it has
// a port of its own.
func (r *real) portFor(port uint16) netip.AddrPort {
	if r.conf.Forward == lb.NAT {
		return r.natTo(port)
	}
	return netip.AddrPortFrom(r.conf.Addr, port)
}

// asked finds the connection that a packet from a real to a client answers to
// (ip_vs_conn_out_get), nil if there is none.
func (d *Director) asked(proto lb.Protocol, from, client netip.AddrPort) (tuple, *flow) {
	var all []tuple
	for other, f := range d.flows {
		if other.proto == proto && other.client == client && f.real.conf.Forward == lb.NAT && !f.real.host.Local &&
			f.real.natTo(other.vip.Port()) == from && !d.expired(f) {
			all = append(all, other)
		}
	}
	if len(all) == 0 {
		return tuple{}, nil
	}
	if len(all) > 1 {
		order := d.world.Order(proto, from)
		slices.SortFunc(all, func(a, b tuple) int { return slices.Index(order, a.vip) - slices.Index(order, b.vip) })
	}
	return all[0], d.flows[all[0]]
}

// unasked handles what answers to no connection that is known: while news are expected
// a reply from a VIP that is served here may be of one. A SYN alone is no reply.
func (d *Director) unasked(proto lb.Protocol, from netip.AddrPort, flags byte) Outcome {
	if proto != lb.TCP || flags&0x12 == 2 || !d.world.ExpectsNews() {
		return passed("not_ours")
	}
	for _, vip := range d.world.Order(proto, from) {
		if _, serves := d.roleOfReply(vip.Addr()); serves {
			return dropped("moved")
		}
	}
	return passed("not_ours")
}

// reply handles what is for no VIP: a reply by NAT, or the kernel's.
func (d *Director) reply(p packet) Outcome {
	switch {
	case p.proto == 1 && !p.more && p.offset == 0:
		return d.errorOfReal(p)
	case p.proto != 6 && p.proto != 17:
		return passed("not_ours")
	case p.offset > 0:
		return d.laterReply(p)
	}
	l4 := p.payload()
	if len(l4) < map[byte]int{6: 20, 17: 8}[p.proto] {
		return passed("not_ours")
	}
	proto, flags := lb.Protocol(p.proto), byte(0)
	if proto == lb.TCP {
		flags = l4[13]
	}
	from := netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(l4))
	k, f := d.asked(proto, from, netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(l4[2:])))
	if f == nil {
		return d.unasked(proto, from, flags)
	}
	if o, serve := d.roleOfReply(k.vip.Addr()); !serve {
		return o
	}
	return d.sendBack(p, f.real, k.vip, false, func() { d.continueByReply(p, k, f, flags) })
}

// continueByReply is what a reply that leaves means for its connection.
func (d *Director) continueByReply(p packet, k tuple, f *flow, flags byte) {
	before := f.state
	f.state, f.seen = progress(f, k.proto, flags, true), d.now
	f.keepProven()
	switch {
	case k.proto == lb.UDP && !f.proven:
		f.proven = true
		d.assure(k, f.real)
	case f.state == "ESTABLISHED" && (before != "ESTABLISHED" || !f.proven):
		f.proven = f.proven || before == "ESTABLISHED"
		d.assure(k, f.real)
	}
	if p.more {
		d.notes[p.datagram()] = note{real: f.real, at: d.now, vip: k.vip.Addr()}
	}
}

// keepProven ends what a flow has proven where its state ends that.
func (f *flow) keepProven() {
	f.proven = f.proven && (f.state == "ESTABLISHED" || f.state == "FIN_WAIT" || f.state == "UDP")
}

// errorOfReal sends an ICMP error about a packet of a client's by NAT to that
// client (handle_response_icmp).
func (d *Director) errorOfReal(p packet) Outcome {
	q, header, ok := quotedBy(p)
	if !ok {
		return passed("not_ours")
	}
	proto, from := lb.Protocol(q[9]), netip.AddrPortFrom(netip.AddrFrom4([4]byte(q[16:20])), binary.BigEndian.Uint16(q[header+2:]))
	k, f := d.asked(proto, from, netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(q[header:])))
	if f == nil {
		return d.unasked(proto, from, 0)
	}
	if o, serve := d.roleOfReply(k.vip.Addr()); !serve {
		return o
	}
	return d.sendBack(p, f.real, k.vip, true, func() {})
}

// quotedBy is the packet that an ICMP error quotes, which went from the error's
// destination.
func quotedBy(p packet) (q []byte, header int, ok bool) {
	m := p.payload()
	if len(m) < 8+20 || m[0] != 3 && m[0] != 4 && m[0] != 11 {
		return nil, 0, false
	}
	q = m[8:]
	header = int(q[0]&15) * 4
	offset := binary.BigEndian.Uint16(q[6:]) & 0x1fff
	ok = q[0]>>4 == 4 && header >= 20 && len(q) >= header+8 && offset == 0 && netip.AddrFrom4([4]byte(q[12:16])) == p.dst
	return q, header, ok
}

// laterReply follows the first fragment of a reply.
func (d *Director) laterReply(p packet) Outcome {
	n, ok := d.notes[p.datagram()]
	if !ok || !n.vip.IsValid() || d.now-n.at > d.ticks(noteTime) {
		return passed("not_ours")
	}
	if o, serve := d.roleOfReply(n.vip); !serve {
		return o
	}
	return d.sendBack(p, n.real, netip.AddrPortFrom(n.vip, 0), false, func() {})
}

// roleOfReply asks whether the director may send from a VIP.
func (d *Director) roleOfReply(vip netip.Addr) (Outcome, bool) {
	switch {
	case !d.owns(vip):
		return passed("not_ours"), false
	case d.vip(vip).Standby:
		return passed("standby"), false
	case d.isLeaseOver(vip):
		return dropped("lease_over"), false
	}
	return Outcome{}, true
}

// sendBack sends a reply of a real to its client, from a VIP's port. It is counted,
// and what follows is done, unless its TTL is 1: ip_forward throws it away before
// ip_vs_out.
func (d *Director) sendBack(p packet, r *real, vip netip.AddrPort, icmp bool, follow func()) Outcome {
	if p.ttl > 1 {
		r.counters.OutPkts++
		r.counters.OutBytes += uint64(p.length)
		follow()
	}
	o := d.wayBack(p, vip, icmp)
	o.to = r
	return o
}

// answerReal answers a real from the director's own address.
func (d *Director) answerReal(p packet, typ, code byte, mtu int, verdict string) Outcome {
	o := d.answer(p, typ, code, mtu, verdict)
	ip := o.Frame[p.ip:]
	replace(ip[12:16], d.world.Own[0].AsSlice(), ip[10:12])
	return o
}

func (d *Director) wayBack(p packet, vip netip.AddrPort, icmp bool) Outcome {
	hop, ok := d.world.Way(p.dst)
	merged := d.world.Generic && p.length > d.world.MTU
	mtu := cmp.Or(hop.MTU, 0xffff)
	isSilent := icmp || p.offset > 0 // icmp_send
	switch {
	case p.ttl <= 1 && isSilent:
		return dropped("ttl_silent")
	case p.ttl <= 1:
		return d.answerReal(p, 11, 0, 0, "answered_ttl")
	case !ok:
		return dropped("no_way_back")
	case p.length > mtu && !merged && (isSilent || !p.df):
		return dropped("too_big")
	case p.length > mtu && !merged:
		return d.answerReal(p, 3, 4, mtu, "answered_too_big")
	}
	out := bytes.Clone(p.frame)
	copy(out, hop.MAC[:])
	copy(out[6:], hop.Source[:])
	d.translate(p, out, vip, true, icmp)
	decreaseTTL(out[p.ip:])
	o := Outcome{Verdict: "replied", Action: Transmit, Frame: out}
	if icmp {
		o.Verdict = "icmp_replied"
	}
	if hop.IfIndex != d.world.IfIndex {
		o.Action = Redirect
	}
	return o
}
