package ipvs

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// TestGuardsFollowLists: the kernel's table is told apart from one that has the same
// chains, sets and keys, and another guard for a service: the service got the list
// of denied clients that another service has already, or that service's port.
func TestGuardsFollowLists(t *testing.T) {
	guarded := func(name, deny string, listen ...string) lb.Service {
		s := named(name, web(nil, listen...))
		s.Deny = []netip.Prefix{netip.MustParsePrefix(deny)}
		return s
	}
	const x, y = "192.0.2.0/25", "192.0.2.128/25"
	const one, two, three = "10.0.0.100:1/tcp", "10.0.0.100:3/tcp", "10.0.0.100:5/tcp"
	states := []lb.State{
		state(guarded("a", x, one), guarded("b", y, two), guarded("c", x, three)),
		state(guarded("a", x, one), guarded("b", y, two), guarded("c", y, three)),
		state(guarded("a", x, one, two), guarded("b", y, three)),
		state(guarded("a", x, one), guarded("b", y, two, three)),
	}
	tb.InNamespace(t, func(t *testing.T, _ int) {
		table := newNftables("lvx")
		rulesOf := func(s lb.State) ruleset { return newRuleset(s, func(lb.Service) uint32 { return 0 }) }
		for i, s := range states {
			if err := table.Set(rulesOf(s)); err != nil {
				t.Error(err)
				return
			}
			c, err := table.open()
			if err != nil {
				t.Error(err)
				return
			}
			for k, other := range states {
				same := i == k || min(i, k) == 1 && max(i, k) == 3 // one way to say it for the kernel
				if table.holds(c, table.layout(rulesOf(other))) != same {
					t.Errorf("with state %d in the kernel, state %d is taken for it: %v", i, k, !same)
				}
			}
		}
	})
}
