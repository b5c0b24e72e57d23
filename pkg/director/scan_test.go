package director

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// BenchmarkSampleOfManyServices is what the loop does every two seconds.
func BenchmarkSampleOfManyServices(b *testing.B) {
	services, st := manyServices(10_000)
	var u unansweredReals
	for b.Loop() {
		u.feed(services, st, time.Time{}, func(netip.Addr) bool { return false })
	}
}

// manyServices are n services of four reals with their counters, and the other way round.
func manyServices(n int) (services []lb.Service, st lb.Stats) {
	for i := range n {
		s := lb.Service{Name: fmt.Sprintf("service-%d", i), Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}}}
		counted := lb.ServiceStats{Name: s.Name}
		for r := range 4 {
			s.Reals = append(s.Reals, lb.Real{Addr: server(r), Weight: 1})
			counted.Reals = append(counted.Reals, lb.RealStats{Addr: server(r)})
		}
		services, st.Services = append(services, s), append(st.Services, counted)
	}
	return services, st
}

// BenchmarkChangesOfManyServices is what the loop does when all reals go down at once.
func BenchmarkChangesOfManyServices(b *testing.B) {
	services, _ := manyServices(10_000)
	before := Planned{State: lb.State{Services: services}, Memory: Memory{Up: map[string]Verdicts{}}}
	after := before
	for _, s := range services {
		plan := ServicePlan{Name: s.Name}
		var up Verdicts
		for _, r := range s.Reals {
			plan.Reals = append(plan.Reals, RealPlan{Addr: r.Addr})
			up = append(up, Verdict{r.Key(), true})
		}
		before.Memory.Up[s.Name] = up
		after.Services = append(after.Services, plan)
	}
	for b.Loop() {
		if n := len(listChanges(before, after, time.Time{})); n != 40_000 {
			b.Fatalf("%d changes", n)
		}
	}
}
