package daemon

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Directors say the same of a service exactly where their rings are the same.
func TestDigests(t *testing.T) {
	service := func(change func(*lb.Service)) lb.Service {
		s := lb.Service{Name: "web", Scheduler: lb.MH}
		for _, addr := range []string{"10.0.0.11", "10.0.0.12", "10.0.0.13"} {
			s.Reals = append(s.Reals, lb.Real{Addr: netip.MustParseAddr(addr), Port: 80, Weight: 1})
		}
		change(&s)
		return s
	}
	turnOrder := func(s *lb.Service) { slices.Reverse(s.Reals) }
	for name, c := range map[string]struct {
		one, other func(*lb.Service)
		isSame     bool
	}{
		"the same":               {func(*lb.Service) {}, func(*lb.Service) {}, true},
		"another name":           {func(*lb.Service) {}, func(s *lb.Service) { s.Name = "www" }, true},
		"another weight":         {func(*lb.Service) {}, func(s *lb.Service) { s.Reals[1].Weight = 2 }, false},
		"a real less":            {func(*lb.Service) {}, func(s *lb.Service) { s.Reals = s.Reals[:2] }, false},
		"another order, mh":      {func(*lb.Service) {}, turnOrder, false},
		"another order, sh":      {func(s *lb.Service) { s.Scheduler = lb.SH }, func(s *lb.Service) { s.Scheduler = lb.SH; turnOrder(s) }, false},
		"another order, dh":      {func(s *lb.Service) { s.Scheduler = lb.DH }, func(s *lb.Service) { s.Scheduler = lb.DH; turnOrder(s) }, false},
		"another order, rr":      {func(s *lb.Service) { s.Scheduler = lb.RR }, func(s *lb.Service) { s.Scheduler = lb.RR; turnOrder(s) }, true},
		"another scheduler":      {func(*lb.Service) {}, func(s *lb.Service) { s.Scheduler = lb.SH }, false},
		"another way to forward": {func(*lb.Service) {}, func(s *lb.Service) { s.Reals[0].Forward = lb.Tunnel }, false},
	} {
		if got := digestOf(service(c.one)) == digestOf(service(c.other)); got != c.isSame {
			t.Errorf("%s: the same %t, want %t", name, got, c.isSame)
		}
	}
}
