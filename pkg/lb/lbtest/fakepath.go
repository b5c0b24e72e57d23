package lbtest

import (
	"net/netip"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// fakeVerdicts is what can become of a packet in a [Fake].
var fakeVerdicts = []struct{ name, meaning string }{
	{"forwarded", "sent to a real server"},
	{"sorry", "sent to the sorry server"},
	{"no_listener", "no service listens there: passed to the kernel"},
	{"standby", "another director owns the VIP"},
	{"denied", "the client is on a deny list"},
	{"no_flow", "not a new connection and not a known one: passed to the kernel"},
	{"no_real", "no real server is usable"},
	{"real_gone", "the connection's real server was removed"},
}

type flowKey struct {
	service  string
	proto    lb.Protocol // 0 for a template
	src, dst netip.AddrPort
}

type fakeFlow struct {
	real     netip.AddrPort
	virtual  netip.AddrPort
	state    string
	expires  time.Time
	template bool
}

// Send implements [Harness].
func (f *Fake) Send(p lb.Packet) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	real, verdict := f.path(p)
	f.verdicts[verdict]++
	return Outcome{Real: real, Verdict: verdict}
}

func (f *Fake) path(p lb.Packet) (netip.Addr, string) {
	s, verdict := f.admit(p)
	if s == nil {
		return netip.Addr{}, verdict
	}
	if fl := f.flow(s, p); fl != nil {
		if !s.has(fl.real) && fl.real.Addr() != s.svc.Sorry {
			return netip.Addr{}, "real_gone"
		}
		fl.step(p, f.state.Timeouts.WithDefaults())
		s.count(fl.real, 0)
		return fl.real.Addr(), "forwarded"
	}
	if p.Proto == lb.TCP && !strings.Contains(p.Flags, "S") && !f.state.SloppyTCP {
		return netip.Addr{}, "no_flow"
	}
	real, verdict := f.choose(s, p)
	if !real.Addr().IsValid() {
		return netip.Addr{}, verdict
	}
	fl := &fakeFlow{real: real, virtual: p.Dst}
	fl.step(p, f.state.Timeouts.WithDefaults())
	f.flows[key(s, p)] = fl
	s.count(real, 1)
	return real.Addr(), verdict
}

// admit finds the service that takes p, or the verdict why none does.
func (f *Fake) admit(p lb.Packet) (*fakeService, string) {
	s := f.listener(p)
	switch {
	case s == nil:
		return nil, "no_listener"
	case !f.serves(p.Dst.Addr()):
		return nil, "standby"
	case !permitted(p.Src.Addr(), f.state.Deny, f.state.Allow), !permitted(p.Src.Addr(), s.svc.Deny, s.svc.Allow):
		return nil, "denied"
	}
	return s, "forwarded"
}

func (f *Fake) listener(p lb.Packet) *fakeService {
	var best *fakeService
	width := 1 << 17
	for _, name := range f.names() {
		for _, l := range f.services[name].svc.Listeners {
			if l.Addr == p.Dst.Addr() && l.Proto == p.Proto && l.Contains(p.Dst.Port()) && l.Width() < width {
				best, width = f.services[name], l.Width()
			}
		}
	}
	if best == nil {
		return f.keeper(p)
	}
	return best
}

// keeper is the service that has p's connection though it does not listen
// there any more.
func (f *Fake) keeper(p lb.Packet) *fakeService {
	for _, name := range f.names() {
		if s := f.services[name]; f.flow(s, p) != nil {
			return s
		}
	}
	return nil
}

// serves reports whether this host forwards for a VIP.
func (f *Fake) serves(vip netip.Addr) bool {
	for _, v := range f.state.VIPs {
		if v.Addr == vip {
			return !v.Standby && (!v.Leased || time.Now().Before(f.leases[v.Lease]))
		}
	}
	return true
}

func permitted(client netip.Addr, deny, allow []netip.Prefix) bool {
	longest := func(ps []netip.Prefix) int {
		best := -1
		for _, p := range ps {
			if p.Contains(client) {
				best = max(best, p.Bits())
			}
		}
		return best
	}
	d, a := longest(deny), longest(allow)
	if d < 0 && a < 0 {
		return len(allow) == 0
	}
	return a > d
}

func key(s *fakeService, p lb.Packet) flowKey {
	return flowKey{service: s.svc.Name, proto: p.Proto, src: p.Src, dst: p.Dst}
}

// flow is the live flow of p that still decides, nil if p is new.
func (f *Fake) flow(s *fakeService, p lb.Packet) *fakeFlow {
	fl := f.flows[key(s, p)]
	if fl == nil || !time.Now().Before(fl.expires) {
		return nil
	}
	anew := p.Proto == lb.UDP || strings.Contains(p.Flags, "S")
	closed := p.Proto == lb.TCP && (fl.state == "CLOSE" || fl.state == "TIME_WAIT")
	if anew && (closed || !s.has(fl.real)) {
		return nil
	}
	return fl
}

// choose picks a server for a new connection: template, scheduler, sorry
// server.
func (f *Fake) choose(s *fakeService, p lb.Packet) (netip.AddrPort, string) {
	tkey, template := f.template(s, p)
	if template != nil && s.accepts(template.real, f.state.ExpireQuiescentTempl) {
		template.expires = time.Now().Add(s.svc.Persistence.Timeout)
		return template.real, "forwarded"
	}
	r, ok := s.schedule(p, f.mac)
	if !ok {
		if s.svc.Sorry.IsValid() && !s.usable(f.mac) {
			return netip.AddrPortFrom(s.svc.Sorry, 0), "sorry"
		}
		return netip.AddrPort{}, "no_real"
	}
	if s.svc.Persistence.Enabled() {
		f.flows[tkey] = &fakeFlow{
			real: r.Key(), virtual: p.Dst, state: "NONE", template: true,
			expires: time.Now().Add(s.svc.Persistence.Timeout),
		}
	}
	return r.Key(), "forwarded"
}

func (f *Fake) template(s *fakeService, p lb.Packet) (flowKey, *fakeFlow) {
	if !s.svc.Persistence.Enabled() {
		return flowKey{}, nil
	}
	bits := s.svc.Persistence.Prefix
	if bits == 0 {
		bits = p.Src.Addr().BitLen()
	}
	net, err := p.Src.Addr().Prefix(bits)
	if err != nil {
		return flowKey{}, nil
	}
	k := flowKey{service: s.svc.Name, src: netip.AddrPortFrom(net.Addr(), 0)}
	t := f.flows[k]
	if t != nil && !time.Now().Before(t.expires) {
		t = nil
	}
	return k, t
}

// step moves the one-way TCP state machine (recording 06-tcp-states) and
// restarts the timer.
func (fl *fakeFlow) step(p lb.Packet, t lb.Timeouts) {
	wait := map[string]time.Duration{
		"SYN_RECV": time.Minute, "ESTABLISHED": t.TCP, "FIN_WAIT": t.TCPFin,
		"TIME_WAIT": 2 * time.Minute, "CLOSE": 10 * time.Second, "UDP": t.UDP,
	}
	has := func(flag string) bool { return strings.Contains(p.Flags, flag) }
	switch {
	case p.Proto == lb.UDP:
		fl.state = "UDP"
	case has("R"):
		if fl.state != "SYN_RECV" {
			fl.state = "CLOSE"
		}
	case has("S"):
		if fl.state != "ESTABLISHED" {
			fl.state = "SYN_RECV"
		}
	case has("F"):
		switch fl.state {
		case "SYN_RECV":
			fl.state = "TIME_WAIT"
		case "ESTABLISHED":
			fl.state = "FIN_WAIT"
		}
	case fl.state == "SYN_RECV", fl.state == "":
		fl.state = "ESTABLISHED"
	}
	fl.expires = time.Now().Add(wait[fl.state])
}
