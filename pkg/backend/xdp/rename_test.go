package xdp

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A service that gets another name keeps connections, templates and counters,
// also where the change is refused first.
func TestRenamedServiceKeepsEverything(t *testing.T) {
	s := webService(3)
	s.Persistence.Timeout = 300 * time.Second
	h := newStill(t, 1024, 1024)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	want := map[int]netip.Addr{}
	for i := range 9 {
		want[i] = h.open(at(i), web)
	}
	before, err := h.Stats()
	must(t, err)

	renamed := lb.State{ExpireNodestConn: true, Services: []lb.Service{s.Clone()}}
	renamed.Services[0].Name = "www"
	h.fail = func(step string) error {
		if step == "add filter" {
			return errors.New("no memory")
		}
		return nil
	}
	renamed.Services[0].Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if err := h.Apply(t.Context(), renamed); err == nil {
		t.Fatal("the change is not refused")
	}
	if name := h.label(t, "web"); !name {
		t.Error("a refused change has taken the name away")
	}
	h.fail = func(string) error { return nil }
	h.apply(renamed)
	if !h.label(t, "www") || h.label(t, "web") {
		t.Error("the kernel does not have the new name alone")
	}
	after, err := h.Stats()
	must(t, err)
	if got, was := after.Services[0], before.Services[0]; got.Name != "www" || got.Counters != was.Counters || len(got.Reals) != 3 || got.Reals[0] != was.Reals[0] {
		t.Errorf("counted %+v, before %+v", got, was)
	}
	for i := range 9 {
		if got := h.data(at(i), web); got != want[i] {
			t.Errorf("connection %d is led to %s, was to %s", i, got, want[i])
		}
		if got := h.open(netip.AddrPortFrom(at(i).Addr(), 40000), web); got != want[i] {
			t.Errorf("client %d is led to %s, was to %s", i, got, want[i])
		}
	}
	conns, err := h.Connections(0)
	must(t, err)
	for _, c := range conns {
		if c.Service != "www" {
			t.Errorf("%+v", c)
		}
	}
}

// label reports whether the kernel's map of labels has a service of a name.
func (h *harness) label(t *testing.T, name string) bool {
	t.Helper()
	for i := range h.dp.Labels {
		if h.dp.Labels[i].Name == labelOf(name) {
			return true
		}
	}
	return false
}

// A listener that a service loses takes no new connections; those that it has
// stay.
func TestConnectionsOfARemovedListenerStay(t *testing.T) {
	s := webService(2)
	h := newStill(t, 1024, 1024)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	want := h.open(at(1), web)
	s = s.Clone()
	s.Listeners[0].First, s.Listeners[0].Last = 8080, 8080
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	for range 3 {
		if got := h.data(at(1), web); got != want {
			t.Errorf("the connection is led to %s, was to %s", got, want)
		}
		h.Sweep()
	}
	if got := h.open(at(2), web); got.IsValid() {
		t.Errorf("a new one is led to %s", got)
	}
}
