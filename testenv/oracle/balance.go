package oracle

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// balance handles TCP and UDP with their ports.
func (d *Director) balance(p packet) Outcome {
	l4 := p.payload()
	need := map[byte]int{6: 20, 17: 8}[p.proto]
	if len(l4) < need {
		return passed("malformed")
	}
	k := tuple{
		proto:  lb.Protocol(p.proto),
		client: netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(l4)),
		vip:    netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(l4[2:])),
	}
	flags := byte(0)
	if k.proto == lb.TCP {
		flags = l4[13]
	}
	if !d.speaks(k.vip.Addr(), k.proto) {
		return passed("no_listener")
	}
	if o, done := d.bySettledRow(p, k, flags); done {
		return o
	}
	if f := d.flows[k]; f != nil && !d.expired(f) {
		if o, done := d.known(p, k, f, flags); done {
			return o
		}
		// Until the scheduler has chosen, the old connection counts
		// (ip_vs_in: ip_vs_conn_expire_now leaves its end to a timer).
		o := d.open(p, k, flags)
		if d.flows[k] == f {
			delete(d.flows, k)
		}
		return o
	}
	return d.open(p, k, flags)
}

// speaks reports whether a VIP has any listener of a protocol. One that only
// VRRP has is taken to speak TCP: connections of its past are reset.
func (d *Director) speaks(vip netip.Addr, proto lb.Protocol) bool {
	bare := proto == lb.TCP
	for _, s := range d.state.Services {
		for _, l := range s.Listeners {
			if l.Addr == vip && l.Proto == proto {
				return true
			}
			bare = bare && l.Addr != vip
		}
	}
	return bare
}

// known handles a packet of a connection; done is false if it must be
// scheduled anew (ip_vs_in).
func (d *Director) known(p packet, k tuple, f *flow, flags byte) (o Outcome, done bool) {
	r := f.real
	syn := k.proto == lb.TCP && flags&2 != 0
	// A connection with a template is never new (is_new_conn_expected).
	another := syn && (f.state == "TIME_WAIT" || f.state == "CLOSE") && !r.service.conf.Persistence.Enabled()
	if r.there && d.denied(r.service, p.src) {
		return dropped("denied"), true
	}
	switch {
	case !r.reachable() && k.proto == lb.TCP && !d.state.ExpireNodestConn && !another:
		return dropped("real_away"), true
	case !r.reachable() && r.unchecked && k.proto == lb.TCP && !syn:
		return dropped("real_away"), true
	case !r.reachable():
		delete(d.flows, k)
		if k.proto == lb.UDP || syn || d.state.SloppyTCP {
			return Outcome{}, false
		}
		return passed("real_gone"), true
	case k.proto == lb.UDP && r.host.Silent,
		another,
		syn && d.state.ExpireNodestConn && !r.usable():
		return Outcome{}, false
	}
	before := f.state
	f.state, f.seen = progress(f, k.proto, flags, false), d.now
	f.keepProven()
	if f.state == "ESTABLISHED" && (before != "ESTABLISHED" || !f.proven) {
		f.proven = f.proven || before == "ESTABLISHED" && len(d.twins(k)) == 0
		d.assure(k, r)
	}
	return d.send(p, r, false, false), true
}

// denied applies the lists: the global ones, then the service's; in each the
// longest prefix decides, deny wins among equals, and who is not on an allow
// list is denied.
func (d *Director) denied(v *service, a netip.Addr) bool {
	lists := func(deny, allow []netip.Prefix) bool {
		longest := func(ps []netip.Prefix) int {
			best := -1
			for _, p := range ps {
				if p.Contains(a) {
					best = max(best, p.Bits())
				}
			}
			return best
		}
		no, yes := longest(deny), longest(allow)
		return no >= 0 && no >= yes || yes < 0 && len(allow) > 0
	}
	return lists(d.state.Deny, d.state.Allow) || lists(v.conf.Deny, v.conf.Allow)
}

// listener finds the service of a port: the narrowest listener's.
func (d *Director) listener(k tuple) *service {
	var best *service
	width := 1 << 17
	for _, s := range d.state.Services {
		for _, l := range s.Listeners {
			if l.Addr == k.vip.Addr() && l.Proto == k.proto && l.Contains(k.vip.Port()) && l.Width() < width {
				best, width = d.services[s.Name], l.Width()
			}
		}
	}
	return best
}

// open handles a packet without a connection (ip_vs_schedule,
// ip_vs_sched_persist).
func (d *Director) open(p packet, k tuple, flags byte) Outcome {
	v := d.listener(k)
	switch {
	case v == nil:
		return passed("no_listener")
	case d.denied(v, p.src):
		return dropped("denied")
	case v.rows == nil && k.proto == lb.TCP && flags&2 == 0 && d.world.ExpectsNews():
		return dropped("moved")
	case v.rows == nil && k.proto == lb.TCP && (flags&4 != 0 || flags&2 == 0 && !d.state.SloppyTCP):
		return passed("no_flow")
	case d.isOwn(p.src):
		return passed("martian")
	}
	var r *real
	if v.rows == nil {
		r = d.choose(v, k)
	} else {
		var o Outcome
		var done bool
		if r, o, done = d.byRow(v, k, flags); done {
			return o
		}
	}
	if r == nil && v.isAwaited() {
		return dropped("no_real")
	}
	if r == nil || !r.reachable() {
		return d.answer(p, 3, 3, 0, "answered_unreachable")
	}
	if v.conf.OnePacket && k.proto == lb.UDP {
		return d.send(p, r, true, false)
	}
	f := &flow{real: r, state: next(k.proto, "", flags), seen: d.now}
	for _, twin := range d.twins(k) {
		twin.proven = false
	}
	d.flows[k] = f
	if f.state == "ESTABLISHED" {
		d.assure(k, r)
	}
	return d.send(p, r, v.rows == nil || k.proto == lb.TCP && flags&2 != 0, false)
}

// choose asks the client's template, then the scheduler.
func (d *Director) choose(v *service, k tuple) *real {
	if !v.conf.Persistence.Enabled() {
		return d.pick(v, k)
	}
	who := v.whose(k.client.Addr())
	t := d.templateOf(who)
	if t != nil {
		t.expires = d.until(t)
		return t.real
	}
	r := d.pick(v, k)
	if r == nil || v.sched.idle() {
		return r // a sorry server keeps nobody
	}
	t = &template{real: r}
	t.expires = d.until(t)
	d.templates[who] = t
	return r
}

// icmpError brings an ICMP error to the real whose packet it quotes
// (ip_vs_in_icmp).
func (d *Director) icmpError(p packet) Outcome {
	if d.isOwn(p.src) {
		return passed("martian")
	}
	m := p.payload()
	if len(m) < 8 {
		return passed("malformed")
	}
	if m[0] != 3 && m[0] != 4 && m[0] != 11 {
		return passed("other_protocol")
	}
	q := m[8:]
	if len(q) < 20 {
		return passed("icmp_no_flow")
	}
	header := int(q[0]&15) * 4
	offset := binary.BigEndian.Uint16(q[6:]) & 0x1fff
	if q[0]>>4 != 4 || header < 20 || len(q) < header+8 || offset != 0 || netip.AddrFrom4([4]byte(q[12:16])) != p.dst {
		return passed("icmp_no_flow")
	}
	k := tuple{
		proto:  lb.Protocol(q[9]),
		client: netip.AddrPortFrom(netip.AddrFrom4([4]byte(q[16:20])), binary.BigEndian.Uint16(q[header+2:])),
		vip:    netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(q[header:])),
	}
	return d.quoted(p, k)
}

// quoted sends an ICMP error to the real of the flow that it quotes. One that
// is not known here may be another director's, which hashes as this one does.
func (d *Director) quoted(p packet, k tuple) Outcome {
	if !d.speaks(p.dst, k.proto) {
		return passed("icmp_no_flow")
	}
	var r *real
	if f := d.flows[k]; f == nil || d.expired(f) {
		r = d.hashed(k)
	} else {
		r = f.real
	}
	if r == nil || !r.reachable() {
		return passed("icmp_no_flow")
	}
	return d.send(p, r, false, true)
}

// hashed is the real that every director gives a client, nil where only the
// flow knows.
func (d *Director) hashed(k tuple) *real {
	v := d.listener(k)
	if v == nil || v.conf.Persistence.Enabled() || d.denied(v, k.client.Addr()) {
		return nil
	}
	if v.rows != nil {
		w := v.rowOf(k)
		return cmp.Or(w.last, w.now)
	}
	if v.sched.idle() || k.proto == lb.TCP && !d.state.SloppyTCP {
		return nil
	}
	switch v.sched.name {
	case lb.SH, lb.DH, lb.MH:
		return d.pick(v, k)
	}
	return nil
}
