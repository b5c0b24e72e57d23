package xdp

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
)

// A field that sameService forgot would be a change that never comes into
// force.
func TestSameServiceSeesEveryField(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	full := lb.Service{
		Name: "a", Mark: 1, Scheduler: lb.RR, Flags: 1, OnePacket: true, Persistence: lb.Persistence{Timeout: time.Second},
		Listeners: []lb.Listener{{Addr: addr}}, Reals: []lb.Real{{Addr: addr}}, Absent: []lb.Real{{Addr: addr}}, Sorry: addr,
		Deny: []netip.Prefix{netip.PrefixFrom(addr, 32)}, Allow: []netip.Prefix{netip.PrefixFrom(addr, 31)},
	}
	if !sameService(&full, &full) {
		t.Error("a service is not the same as itself")
	}
	of := reflect.TypeOf(full)
	for i := range of.NumField() {
		other := full
		v := reflect.ValueOf(&other).Elem().Field(i)
		if v.IsZero() {
			t.Errorf("the test does not set %s", of.Field(i).Name)
		}
		v.SetZero()
		if sameService(&full, &other) {
			t.Errorf("%s does not count", of.Field(i).Name)
		}
	}
}

// A service that did not change is prepared again when a real's MAC does, or
// when lists for all services come or go.
func TestUnchangedServiceFollowsTheSegment(t *testing.T) {
	s := lb.State{Services: []lb.Service{webService(2)}}
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
	s := lb.State{Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	for i := range h.slots.next {
		h.dp.Reals[i] = loader.RawReal{}
	}
	h.apply(s)
	p := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 1000), Dst: web, Flags: "S"}
	if o := h.Send(p); !o.Real.IsValid() {
		t.Errorf("reals that somebody wiped are still gone: %+v", o)
	}
}
