package xdp

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
)

// A service that did not change is prepared again when a real's MAC does, or
// when lists for all services come or go.
func TestUnchangedServiceFollowsTheSegment(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	from := func(port uint16) lbtest.Outcome {
		return h.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), port), Dst: web, Flags: "S"})
	}
	h.net.silent[realN(1)] = "does not answer"
	h.apply(s)
	for port := range uint16(4) {
		if o := from(1000 + port); o.Real != realN(2) {
			t.Errorf("with a silent real the others serve: %+v", o)
		}
	}
	delete(h.net.silent, realN(1))
	h.apply(s)
	if a, b := from(2000), from(2001); a.Real == b.Real {
		t.Errorf("a real that speaks again gets nothing: %+v, %+v", a, b)
	}
	s.Deny = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}
	h.apply(s)
	if o := from(3000); o.Real.IsValid() {
		t.Errorf("a denied client is served: %+v", o)
	}
	s.Deny = nil
	h.apply(s)
	if o := from(3001); !o.Real.IsValid() {
		t.Errorf("nobody is served any more: %+v", o)
	}
}

// An Apply that brings nothing new is the periodic pass: it mends.
func TestPassWithoutNewsMends(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	for i := range h.slots.next {
		h.dp.Reals[i] = bpf.Real{}
	}
	h.apply(s)
	p := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 1000), Dst: web, Flags: "S"}
	if o := h.Send(p); !o.Real.IsValid() {
		t.Errorf("reals that somebody wiped are still gone: %+v", o)
	}
}

// While something changes elsewhere, a service is looked at again only if its
// reals' answers may have changed; then it is.
func TestChangeElsewhereFollowsTheSegment(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1), other()}}
	h := serving(t, s)
	moved := Neighbor{MAC: [6]byte{2, 0, 10, 0, 0, 77}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500}
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): moved}
	s = s.Clone()
	s.Services[1].Scheduler = lb.SH
	h.apply(s)
	if o := h.Send(syn(lb.TCP)); o.Real != macOwner(moved.MAC[:]) {
		t.Errorf("the real has moved, its packets have not: %+v", o)
	}
}

// Both halves of the tables get every layout, whatever came between: a change
// of roles in the half in force, a service that goes, a VIP that moves.
func TestLayoutReachesBothHalves(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2), other()}}
	h := serving(t, s)
	weigh := func() { // a change that needs no layout, and comes into the other half
		s = s.Clone() // what was applied is the backend's
		s.Services[0].Reals[0].Weight++
		h.apply(s)
	}
	at := func(dst string) string {
		p := syn(lb.TCP)
		p.Dst = netip.MustParseAddrPort(dst)
		v, _, _ := h.verdict(frame(p))
		return v
	}
	check := func(when, web, elsewhere string) {
		t.Helper()
		for half := range 2 {
			if a, b := at("10.0.0.100:80"), at("10.0.0.101:80"); a != web || b != elsewhere {
				t.Errorf("%s, half %d: %s and %s, want %s and %s", when, half, a, b, web, elsewhere)
			}
			weigh()
		}
	}
	check("at first", "forwarded", "forwarded")
	s = s.Clone()
	s.VIPs = standby(vip)
	must(t, h.Switch(s.VIPs))
	check("standby", "standby", "forwarded")
	s.VIPs = nil
	must(t, h.Switch(nil))
	check("active", "forwarded", "forwarded")
	s = s.Clone()
	s.Services[1].Listeners[0].Addr = netip.MustParseAddr("10.0.0.102")
	h.apply(s)
	check("moved", "forwarded", "not_ours")
	s.Services = s.Services[:1]
	h.apply(s)
	check("gone", "forwarded", "not_ours")
	s.Services = append(s.Clone().Services, other())
	h.apply(s)
	check("back", "forwarded", "forwarded")
}

func other() lb.Service {
	return lb.Service{
		Name: "other", Scheduler: lb.RR, Mark: 8, Reals: []lb.Real{{Addr: realN(3), Weight: 1}},
		Listeners: []lb.Listener{{Addr: netip.MustParseAddr("10.0.0.101"), Proto: lb.TCP, First: 80, Last: 80}},
	}
}

// What an Apply that failed had prepared was written nowhere: the next one
// writes it, though nothing has changed since.
func TestApplyAfterAFailedOne(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1), other()}}
	h := serving(t, s)
	moved := Neighbor{MAC: [6]byte{2, 0, 10, 0, 0, 77}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500}
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): moved}
	if err := h.Apply(t.Context(), withTooManyRanges(s)); err == nil {
		t.Fatal("more port ranges than the table has were laid out")
	}
	s = s.Clone()
	s.Services[1].Scheduler = lb.SH
	h.apply(s)
	if o := h.Send(syn(lb.TCP)); o.Real != macOwner(moved.MAC[:]) {
		t.Errorf("the real has moved, its packets have not: %+v", o)
	}
	grown := s.Clone()
	grown.Services[0].Reals = append(grown.Services[0].Reals, lb.Real{Addr: realN(2), Weight: 1})
	if h.Apply(t.Context(), withTooManyRanges(grown)) == nil {
		t.Fatal("more port ranges than the table has were laid out")
	}
	grown = grown.Clone()
	grown.Services[1].Scheduler = lb.RR
	h.apply(grown)
	for port := range uint16(4) {
		p := syn(lb.TCP)
		p.Src = netip.AddrPortFrom(client.Addr(), 1000+port)
		if v, _, _ := h.verdict(frame(p)); v != "forwarded" {
			t.Errorf("a client of the new real: %s", v)
		}
	}
}

func withTooManyRanges(s lb.State) lb.State {
	s = s.Clone()
	many := lb.Service{Name: "many", Scheduler: lb.RR, Mark: 9, Reals: []lb.Real{{Addr: realN(3), Weight: 1}}}
	for n := range 700 {
		at := netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)})
		for i := range uint16(100) {
			many.Listeners = append(many.Listeners, lb.Listener{Addr: at, Proto: lb.TCP, First: 1 + 3*i, Last: 2 + 3*i})
		}
	}
	s.Services = append(s.Services, many)
	return s
}
