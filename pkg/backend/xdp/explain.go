package xdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// explainer walks the tables as the packet path would, without changing
// them, and keeps a diary.
type explainer struct {
	b     *Backend
	p     lb.Packet
	now   uint64
	steps []string
}

func (e *explainer) note(format string, args ...any) {
	e.steps = append(e.steps, fmt.Sprintf(format, args...))
}

func (e *explainer) end(v bpf.Verdict, service, real string) lb.Explanation {
	e.note("%s", v.Meaning())
	return lb.Explanation{Verdict: v.String(), Service: service, Real: real, Steps: e.steps}
}

// Explain tells what the packet path would do with p.
func (b *Backend) Explain(p lb.Packet) (lb.Explanation, error) {
	if !p.Src.Addr().Is4() || !p.Dst.Addr().Is4() {
		return lb.Explanation{}, fmt.Errorf("explain %s > %s: XDP balances IPv4 only", p.Src, p.Dst)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := &explainer{b: b, p: p, now: b.now()}
	if p.Flags == "" {
		e.p.Flags = "S"
	}
	return e.run(), nil
}

func (e *explainer) run() lb.Explanation {
	dst := e.p.Dst.Addr()
	vip, ok := e.b.vip(dst)
	if !ok {
		e.note("%s is not a VIP", dst)
		return e.end(bpf.NotOurs, "", "")
	}
	e.note("%s is a VIP", dst)
	if src := e.p.Src.Addr(); src.IsLoopback() || src.IsMulticast() || src.As4()[0] == 0 || src == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return e.end(bpf.Martian, "", "")
	}
	if vip.Flags&bpf.VIPStandby != 0 {
		return e.end(bpf.Standby, "", "")
	}
	if vip.Flags&bpf.VIPPeers != 0 {
		e.note("a fellow director's frame ends here: this host is a real server (from_peer)")
	}
	if vip.Flags&bpf.VIPLeased != 0 {
		j, _ := e.b.dp.Jiffies()
		if j > load64(&e.b.dp.Leases[vip.Lease]) {
			return e.end(bpf.LeaseOver, "", "")
		}
	}
	number := vip.TCP
	if e.p.Proto == lb.UDP {
		number = vip.UDP
	}
	if number == 0 {
		e.note("no service of this VIP takes %s", e.p.Proto)
		return e.end(bpf.NoListener, "", "")
	}
	k := bpf.FlowKeyOf(e.p.Src.Addr(), e.p.Src.Port(), number)
	if v, ok := e.b.findFlow(k, e.p.Dst); ok {
		if x, done := e.known(v); done {
			return x
		}
	} else {
		e.note("no connection %s > %s is known", e.p.Src, e.p.Dst)
	}
	return e.fresh(k)
}

func (e *explainer) known(v bpf.FlowValue) (lb.Explanation, bool) {
	if e.b.expired(v, e.now) {
		e.note("its connection (%s) has expired", stateNames[v.State()])
		return lb.Explanation{}, false
	}
	raw := &e.b.dp.Reals[v.Real()]
	s := e.b.byIndex[raw.Service%bpf.Services]
	name, real := "", e.b.addressOf(v.Real()).String()
	if s != nil {
		name = s.conf.Name
	}
	e.note("known connection of service %q: %s, seen %s ago, real %s", name, stateNames[v.State()],
		ticksDuration(int64(uint16(e.now)-v.Seen())), real)
	if s != nil && raw.Flags&bpf.RealFiltered != 0 && e.denied(s) {
		return e.end(bpf.Denied, name, ""), true
	}
	if why := e.anew(v, raw); why != "" {
		e.note("%s: it is scheduled anew", why)
		return lb.Explanation{}, false
	}
	switch {
	case raw.Flags&bpf.RealThere != 0 && raw.Generation == v.Generation():
		return e.way(name, v.Real()), true
	case !e.b.state.ExpireNodestConn, isAwaited(raw, v):
		return e.end(bpf.RealAway, name, ""), true
	}
	return e.end(bpf.RealGone, name, ""), true
}

// isAwaited reports whether a connection's real is out only until it has been
// checked (is_awaited of bpf/connection.h).
func isAwaited(raw *bpf.Real, v bpf.FlowValue) bool {
	return raw.Flags&(bpf.RealThere|bpf.RealSilent) == bpf.RealSilent && raw.Generation == v.Generation()
}

// anew tells why the packet of a known connection begins a new one, "" if it
// does not (end_without_real and must_reschedule of
// bpf/connection.h).
func (e *explainer) anew(v bpf.FlowValue, raw *bpf.Real) string {
	udp, syn := e.p.Proto != lb.TCP, strings.Contains(e.p.Flags, "S")
	closed := stateNames[v.State()] == "TIME_WAIT" || stateNames[v.State()] == "CLOSE"
	another := !udp && syn && closed && !e.keepsClients(raw)
	switch removed := raw.Flags&bpf.RealThere == 0 || raw.Generation != v.Generation(); {
	case removed && (udp || another || (syn || e.b.state.SloppyTCP && !isAwaited(raw, v)) && e.b.state.ExpireNodestConn):
		return "its real was removed"
	case removed:
		return ""
	case udp && raw.Flags&bpf.RealSilent != 0:
		return "its real does not answer ARP"
	case udp || !syn:
		return ""
	case another:
		return "a SYN on a closed connection"
	case raw.Flags&bpf.RealUsable == 0 && e.b.state.ExpireNodestConn:
		return "a SYN to a real that gets no new connections"
	}
	return ""
}

// keepsClients reports whether the service of a real keeps its clients: a
// connection with a template is never new. It asks the entry that the packet
// path asks (get_persistent of bpf/connection.h): of a deleted service the last one.
func (e *explainer) keepsClients(raw *bpf.Real) bool {
	half := e.b.dp.Settings.Half & 1
	s := &e.b.dp.Services[half*bpf.Services+raw.Service%bpf.Services]
	return s.Flags&bpf.ServicePersistent != 0 && s.Cookie == raw.Cookie
}

// fresh explains a packet that opens a connection.
func (e *explainer) fresh(k bpf.FlowKey) lb.Explanation {
	s := e.b.serviceFor(e.p.Dst, e.p.Proto)
	if s == nil {
		e.note("no service listens on %s/%s", e.p.Dst, e.p.Proto)
		return e.end(bpf.NoListener, "", "")
	}
	name := s.conf.Name
	e.note("service %q listens there, scheduler %s", name, s.conf.Scheduler)
	if e.denied(s) {
		return e.end(bpf.Denied, name, "")
	}
	if e.p.Proto == lb.TCP && (strings.Contains(e.p.Flags, "R") || !strings.Contains(e.p.Flags, "S") && !e.b.state.SloppyTCP) {
		e.note("flags %q do not open a connection", e.p.Flags)
		return e.end(bpf.NoFlow, name, "")
	}
	if e.isOwn(e.p.Src.Addr()) {
		return e.end(bpf.Martian, name, "")
	}
	if s.conf.Persistence.Enabled() {
		if p, t := e.b.findTemplate(s, k); p != nil && e.holds(t) {
			e.note("persistence template: real %s, %s left", e.b.addressOf(t.Real()), shown(int64(t.Left(e.now))))
			return e.way(name, t.Real())
		}
		e.note("no persistence template of this client")
	}
	slot := e.pick(s)
	if slot == bpf.NoSlot {
		for _, r := range s.listed() {
			e.note("real %s is not usable: weight %d %s", r.conf.Addr, r.conf.Weight, r.near.Err)
		}
		return e.end(bpf.AnsweredUnreachable, name, "")
	}
	return e.way(name, slot)
}

// holds reports whether a new connection would follow a template (template_use
// of bpf/template.h).
func (e *explainer) holds(t bpf.TemplateValue) bool {
	raw := &e.b.dp.Reals[t.Real()]
	quiesced := raw.Flags&bpf.RealUsable == 0 && e.b.state.ExpireQuiescentTempl
	return t.Left(e.now) >= 0 && raw.Generation == t.Generation() &&
		raw.Flags&(bpf.RealThere|bpf.RealSilent) == bpf.RealThere && !quiesced
}

// isOwn reports whether an address is this host's (is_own_address of
// bpf/admit.h).
func (e *explainer) isOwn(a netip.Addr) bool {
	if v, ok := e.b.vip(a); ok {
		return v.Flags&bpf.VIPStandby == 0
	}
	own := e.b.dp.Interfaces[0].Own
	return slices.Contains(own[:], bpf.AddressOf(a))
}

func (e *explainer) pick(s *service) uint32 {
	if s.entry.RingSize == 0 {
		if s.entry.Sorry != bpf.NoSlot {
			e.note("no usable real: the sorry server answers")
		}
		return s.entry.Sorry
	}
	usable := func(id uint32) bool { return e.b.dp.Reals[id].Flags&bpf.RealUsable != 0 }
	switch s.conf.Scheduler {
	case lb.RR, lb.WRR:
		picks := load64(&e.b.dp.Cursors[s.index].Picks)
		e.note("next of the rotation (changes with every new connection)")
		return s.ring.Slots[(picks+uint64(s.entry.Start))%uint64(len(s.ring.Slots))]
	case lb.SH, lb.MH:
		e.note("hash of the client")
		return s.ring.PickHash(e.p.Src.Addr(), e.p.Src.Port(), usable)
	case lb.DH:
		e.note("hash of the VIP")
		return s.ring.PickHash(e.p.Dst.Addr(), 0, usable)
	}
	e.note("the least loaded now (changes with every connection)")
	return s.ring.PickLeast(e.load)
}

// load counts a real's connections, with one that the packet ends: it counts
// until the scheduler has chosen.
func (e *explainer) load(id uint32) sched.Load {
	l := e.b.dp.Loads[id]
	return sched.Load{Active: uint32(max(l.Active, 0)), Inactive: uint32(max(l.Inactive, 0)), Weight: e.b.dp.Reals[id].Weight}
}

func (e *explainer) way(service string, slot uint32) lb.Explanation {
	raw := &e.b.dp.Reals[slot]
	real := e.b.addressOf(slot).String()
	if raw.Flags&bpf.RealLocal != 0 {
		e.note("%s is this host", real)
		return e.end(bpf.Local, service, real)
	}
	e.note("to real %s, MAC %s, ifindex %d", real, macString(raw.MAC), raw.Ifindex)
	for _, a := range e.b.dp.Attachments {
		if uint32(a.Index) == raw.Ifindex {
			return e.end(bpf.Forwarded, service, real)
		}
	}
	return e.end(bpf.Redirected, service, real)
}

// denied applies the lists as the trie does: the longest prefix decides.
func (e *explainer) denied(s *service) bool {
	for _, l := range []struct {
		who         string
		deny, allow []netip.Prefix
	}{{"all services", e.b.state.Deny, e.b.state.Allow}, {s.conf.Name, s.conf.Deny, s.conf.Allow}} {
		best, denied := -1, len(l.allow) > 0
		for _, p := range l.allow {
			if p.Contains(e.p.Src.Addr()) && p.Bits() > best {
				best, denied = p.Bits(), false
			}
		}
		for _, p := range l.deny {
			if p.Contains(e.p.Src.Addr()) && p.Bits() >= best {
				best, denied = p.Bits(), true
			}
		}
		if denied {
			e.note("the lists of %s deny %s", l.who, e.p.Src.Addr())
			return true
		}
	}
	return false
}

// vip finds a VIP in the half in force.
func (b *Backend) vip(a netip.Addr) (bpf.VIP, bool) {
	half, hash := b.dp.Settings.Half&1, bpf.FirstVIPLine(a)
	for i := range uint32(bpf.Probes) {
		for _, v := range b.dp.VIPs[half*bpf.VIPLines+(hash+i)%bpf.VIPLines].Way {
			if v.TCP|v.UDP != 0 && v.Addr.Addr() == a {
				return v, true
			}
		}
	}
	return bpf.VIP{}, false
}

// findFlow finds a flow, live or expired.
func (b *Backend) findFlow(k bpf.FlowKey, vip netip.AddrPort) (bpf.FlowValue, bool) {
	client, port := netip.AddrPortFrom(k.Client(), k.ClientPort()), vip.Port()
	sets := bpf.TwoSets(b.dp.Settings.FlowHash(client, vip), uint32(len(b.dp.Flows)/8))
	for _, set := range sets {
		for w := range uint32(4) {
			v := bpf.FlowValue(load64(&b.dp.Flows[set*8+4+w]))
			if bpf.FlowKey(load64(&b.dp.Flows[set*8+w])) == k && v.Port() == port && v.IsLive() {
				return v, true
			}
		}
	}
	return 0, false
}

// serviceFor finds the narrowest listener of the state.
func (b *Backend) serviceFor(dst netip.AddrPort, proto lb.Protocol) *service {
	var best *service
	width := 1 << 20
	for _, s := range b.state.Services {
		for _, l := range s.Listeners {
			if l.Addr == dst.Addr() && l.Proto == proto && l.Contains(dst.Port()) && l.Width() < width {
				best, width = b.services[s.Name], l.Width()
			}
		}
	}
	return best
}
