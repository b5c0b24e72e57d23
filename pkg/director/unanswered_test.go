package director

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A real that is sent connections by NAT and never answers is named, until it
// answers; one that is slow, idle, by another way, of UDP or this host is not.
func TestUnansweredReals(t *testing.T) {
	type sample struct {
		seconds     int
		connections uint64
		replies     uint64
		want        bool
	}
	nat := func(s *lb.Service) { s.Reals[0].Forward = lb.NAT }
	for name, c := range map[string]struct {
		change  func(*lb.Service)
		local   bool
		samples []sample
	}{
		"never answers":            {nat, false, []sample{{0, 0, 0, false}, {2, 5, 0, false}, {10, 9, 0, false}, {12, 9, 0, true}, {90, 9, 0, true}}},
		"answers at last":          {nat, false, []sample{{0, 5, 0, false}, {20, 5, 0, true}, {22, 5, 1, false}, {40, 5, 1, false}}},
		"stops answering":          {nat, false, []sample{{0, 5, 9, false}, {2, 9, 9, false}, {12, 9, 9, true}}},
		"few connections":          {nat, false, []sample{{0, 0, 0, false}, {2, 2, 0, false}, {60, 2, 0, false}, {62, 3, 0, true}}},
		"answers":                  {nat, false, []sample{{0, 5, 9, false}, {20, 50, 90, false}, {40, 99, 180, false}}},
		"idle":                     {nat, false, []sample{{0, 5, 9, false}, {60, 5, 9, false}}},
		"counters begin anew":      {nat, false, []sample{{0, 9, 9, false}, {2, 0, 0, false}, {60, 0, 0, false}}},
		"answers past this host":   {func(*lb.Service) {}, false, []sample{{0, 5, 0, false}, {60, 50, 0, false}}},
		"of UDP":                   {func(s *lb.Service) { nat(s); s.Listeners[0].Proto = lb.UDP }, false, []sample{{0, 5, 0, false}, {60, 50, 0, false}}},
		"this host":                {nat, true, []sample{{0, 5, 0, false}, {60, 50, 0, false}}},
		"of another port than its": {func(s *lb.Service) { nat(s); s.Reals[0].Port = 9 }, false, []sample{{0, 5, 0, false}, {60, 50, 0, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service("web", 1).Service
			c.change(&svc)
			var u unansweredReals
			for _, s := range c.samples {
				st := lb.Stats{Services: []lb.ServiceStats{{Name: "web", Reals: []lb.RealStats{{
					Addr: server(1), Counters: lb.Counters{Conns: s.connections, OutPkts: s.replies},
				}}}}}
				at := time.Unix(1000, 0).Add(time.Duration(s.seconds) * time.Second)
				found := u.feed([]lb.Service{svc}, st, at, func(netip.Addr) bool { return c.local })
				if (len(found) == 1) != s.want {
					t.Errorf("after %d s, %d connections, %d replies: %+v", s.seconds, s.connections, s.replies, found)
				}
			}
		})
	}
}
