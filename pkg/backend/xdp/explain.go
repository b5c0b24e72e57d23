package xdp

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/lvx-lb/lvx/loader"
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

func (e *explainer) end(v loader.RawVerdict, service, real string) lb.Explanation {
	e.note("%s", verdictTexts[v].meaning)
	return lb.Explanation{Verdict: verdictTexts[v].name, Service: service, Real: real, Steps: e.steps}
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
		return e.end(loader.RawVerdictVERDICT_NOT_OURS, "", "")
	}
	e.note("%s is a VIP", dst)
	if vip.Flags&vipStandby != 0 {
		return e.end(loader.RawVerdictVERDICT_STANDBY, "", "")
	}
	if vip.Flags&vipPeers != 0 {
		e.note("a fellow director's frame ends here: this host is a real server (from_peer)")
	}
	if vip.Flags&vipLeased != 0 {
		j, _ := e.b.dp.Jiffies()
		if j > load64(&e.b.dp.Leases[vip.Lease]) {
			return e.end(loader.RawVerdictVERDICT_LEASE_OVER, "", "")
		}
	}
	number := vip.Tcp
	if e.p.Proto == lb.UDP {
		number = vip.Udp
	}
	if number == 0 {
		e.note("no service of this VIP takes %s", e.p.Proto)
		return e.end(loader.RawVerdictVERDICT_NO_LISTENER, "", "")
	}
	k := makeKey(e.p.Src.Addr(), e.p.Src.Port(), number)
	if v, ok := e.b.findFlow(k, e.p.Dst); ok {
		if x, done := e.known(v); done {
			return x
		}
	} else {
		e.note("no connection %s > %s is known", e.p.Src, e.p.Dst)
	}
	return e.fresh(k)
}

func (e *explainer) known(v value) (lb.Explanation, bool) {
	if e.b.expired(v, e.now) {
		e.note("its connection (%s) has expired", stateNames[v.state()])
		return lb.Explanation{}, false
	}
	raw := &e.b.dp.Reals[v.real()]
	s := e.b.byIndex[raw.Service%numServices]
	name, real := "", e.b.addressOf(v.real()).String()
	if s != nil {
		name = s.conf.Name
	}
	e.note("known connection of service %q: %s, seen %s ago, real %s", name, stateNames[v.state()],
		ticksDuration(int64(uint16(e.now)-v.seen())), real)
	if s != nil && raw.Flags&realFiltered != 0 && e.denied(s) {
		return e.end(loader.RawVerdictVERDICT_DENIED, name, ""), true
	}
	if why := e.anew(v, raw); why != "" {
		e.note("%s: it is scheduled anew", why)
		return lb.Explanation{}, false
	}
	switch {
	case raw.Flags&realThere != 0 && raw.Generation == v.generation():
		return e.way(name, v.real()), true
	case !e.b.state.ExpireNodestConn:
		return e.end(loader.RawVerdictVERDICT_REAL_AWAY, name, ""), true
	}
	return e.end(loader.RawVerdictVERDICT_REAL_GONE, name, ""), true
}

// anew tells why the packet of a known connection begins a new one, "" if it
// does not (gone and reschedule of bpf/lb.c).
func (e *explainer) anew(v value, raw *loader.RawReal) string {
	udp, syn := e.p.Proto != lb.TCP, strings.Contains(e.p.Flags, "S")
	closed := stateNames[v.state()] == "TIME_WAIT" || stateNames[v.state()] == "CLOSE"
	another := !udp && syn && closed && !e.keepsClients(raw)
	switch gone := raw.Flags&realThere == 0 || raw.Generation != v.generation(); {
	case gone && (udp || another || (syn || e.b.state.SloppyTCP) && e.b.state.ExpireNodestConn):
		return "its real was removed"
	case gone:
		return ""
	case udp && raw.Flags&realSilent != 0:
		return "its real does not answer ARP"
	case udp || !syn:
		return ""
	case another:
		return "a SYN on a closed connection"
	case raw.Flags&realUsable == 0 && e.b.state.ExpireNodestConn:
		return "a SYN to a real that gets no new connections"
	}
	return ""
}

// keepsClients reports whether the service of a real keeps its clients: a
// connection with a template is never new. It asks the entry that the packet
// path asks (persistent of bpf/lb.c): of a deleted service the last one.
func (e *explainer) keepsClients(raw *loader.RawReal) bool {
	half := e.b.dp.Settings.Half & 1
	s := &e.b.dp.Services[half*numServices+raw.Service%numServices]
	return s.Flags&loader.RawServiceFlagSERVICE_PERSISTENT != 0 && s.Cookie == raw.Cookie
}

// fresh explains a packet that opens a connection.
func (e *explainer) fresh(k key) lb.Explanation {
	s := e.b.serviceFor(e.p.Dst, e.p.Proto)
	if s == nil {
		e.note("no service listens on %s/%s", e.p.Dst, e.p.Proto)
		return e.end(loader.RawVerdictVERDICT_NO_LISTENER, "", "")
	}
	name := s.conf.Name
	e.note("service %q listens there, scheduler %s", name, s.conf.Scheduler)
	if e.denied(s) {
		return e.end(loader.RawVerdictVERDICT_DENIED, name, "")
	}
	if e.p.Proto == lb.TCP && (strings.Contains(e.p.Flags, "R") || !strings.Contains(e.p.Flags, "S") && !e.b.state.SloppyTCP) {
		e.note("flags %q do not open a connection", e.p.Flags)
		return e.end(loader.RawVerdictVERDICT_NO_FLOW, name, "")
	}
	if s.conf.Persistence.Enabled() {
		if p, t := e.b.findTemplate(s, k); p != nil && e.holds(t) {
			e.note("persistence template: real %s, %s left", e.b.addressOf(t.real()), shown(int64(t.left(e.now))))
			return e.way(name, t.real())
		}
		e.note("no persistence template of this client")
	}
	slot := e.pick(s)
	if slot == noReal {
		for _, r := range s.listed() {
			e.note("real %s is not usable: weight %d %s", r.conf.Addr, r.conf.Weight, r.near.Err)
		}
		return e.end(loader.RawVerdictVERDICT_ANSWERED_UNREACHABLE, name, "")
	}
	return e.way(name, slot)
}

// holds reports whether a new connection would follow a template (template_use
// of bpf/template.h).
func (e *explainer) holds(t template) bool {
	raw := &e.b.dp.Reals[t.real()]
	quiesced := raw.Flags&realUsable == 0 && e.b.state.ExpireQuiescentTempl
	return t.left(e.now) >= 0 && raw.Generation == t.generation() &&
		raw.Flags&(realThere|realSilent) == realThere && !quiesced
}

func (e *explainer) pick(s *service) uint32 {
	if s.entry.RingSize == 0 {
		if s.entry.Sorry != noReal {
			e.note("no usable real: the sorry server answers")
		}
		return s.entry.Sorry
	}
	usable := func(id uint32) bool { return e.b.dp.Reals[id].Flags&realUsable != 0 }
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
	if raw.Flags&realLocal != 0 {
		e.note("%s is this host", real)
		return e.end(loader.RawVerdictVERDICT_LOCAL, service, real)
	}
	e.note("to real %s, MAC %s, ifindex %d", real, macString(raw.Mac), raw.Ifindex)
	for _, a := range e.b.dp.Attachments {
		if uint32(a.Index) == raw.Ifindex {
			return e.end(loader.RawVerdictVERDICT_FORWARDED, service, real)
		}
	}
	return e.end(loader.RawVerdictVERDICT_REDIRECTED, service, real)
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
func (b *Backend) vip(a netip.Addr) (loader.RawVip, bool) {
	half, hash := b.dp.Settings.Half&1, be32(a)*0x9e3779b1>>18
	for i := range uint32(probes) {
		for _, v := range b.dp.VIPs[half*vipLines+(hash+i)%vipLines].Way {
			if v.Tcp|v.Udp != 0 && addrOf(v.Addr.Word) == a {
				return v, true
			}
		}
	}
	return loader.RawVip{}, false
}

// findFlow finds a flow, live or expired.
func (b *Backend) findFlow(k key, vip netip.AddrPort) (value, bool) {
	client, port := netip.AddrPortFrom(k.client(), k.port()), vip.Port()
	first, second := twoSets(flowHash(b.dp.Settings, client, vip), uint32(len(b.dp.Flows)/8))
	for _, set := range []uint32{first, second} {
		for w := range uint32(4) {
			v := value(load64(&b.dp.Flows[set*8+4+w]))
			if key(load64(&b.dp.Flows[set*8+w])) == k && v.port() == port && v.state() != stateEmpty && v.state() != stateBusy {
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
