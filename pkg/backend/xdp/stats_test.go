package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// persistentService keeps its clients and is listed by a mark.
func persistentService(name string, mark uint32, vip netip.Addr) lb.Service {
	s := webService(2)
	s.Name, s.Mark = name, mark
	s.Persistence = lb.Persistence{Timeout: 360 * time.Second}
	s.Listeners = []lb.Listener{
		{Addr: vip, Proto: lb.TCP, First: 80, Last: 80},
		{Addr: vip, Proto: lb.TCP, First: 443, Last: 443},
	}
	return s
}

// templates are the templates that a listing shows.
func (h *harness) templates() (found []lb.Connection) {
	h.t.Helper()
	conns, err := h.Connections(0)
	must(h.t, err)
	for _, c := range conns {
		if c.Template {
			found = append(found, c)
		}
	}
	return found
}

func TestTemplatesAreCounted(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.apply(lb.State{Services: []lb.Service{persistentService("a", 7, vip)}})
	for n := range 3 {
		h.verdict(frame(lb.Packet{
			Proto: lb.TCP, Flags: "S", Dst: web,
			Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(5 + n)}), 40000),
		}))
	}
	st, err := h.Stats()
	must(t, err)
	if st.Template.Used != 3 || len(h.templates()) != 3 {
		t.Errorf("%d templates counted, %d listed, want 3", st.Template.Used, len(h.templates()))
	}
	h.pass(400)
	if st, err = h.Stats(); err != nil || st.Template.Used != 0 {
		t.Errorf("%d templates counted after their timeout (%v)", st.Template.Used, err)
	}
}

// The template of a removed service is listed as that service's or not at all,
// also when its real's slot has another owner.
func TestTemplateOfRemovedServiceIsNoOthers(t *testing.T) {
	h := newStill(t, 1024, 256)
	a, b := persistentService("a", 7, vip), persistentService("b", 8, realN(90))
	h.apply(lb.State{Services: []lb.Service{a}})
	h.verdict(fresh(1))
	h.apply(lb.State{})
	h.apply(lb.State{Services: []lb.Service{b}})
	for _, c := range h.templates() {
		if c.Virtual.Addr() != netip.AddrFrom4([4]byte{0, 0, 0, 7}) || c.Service != "a" {
			t.Errorf("template of service a is listed as %s of %s", c.Virtual, c.Service)
		}
	}
	for _, r := range h.services["a"].reals {
		h.dp.Reals[r.slot].Generation++ // what the slot's next owner does
	}
	st, err := h.Stats()
	must(t, err)
	if st.Template.Used != 0 || len(h.templates()) != 0 {
		t.Errorf("the template of a slot's former real counts: %d used, %d listed", st.Template.Used, len(h.templates()))
	}
	for _, r := range st.Services[0].Reals {
		if r.Persist != 0 {
			t.Errorf("service b counts %d templates of service a", r.Persist)
		}
	}
}
