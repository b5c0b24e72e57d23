package auto

import (
	"context"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// leaving lists the services of one place, as they were applied there last,
// that the next state has at the other place.
func leaving(here, other []lb.Service) []lb.Service {
	var out []lb.Service
	if len(here) == 0 || len(other) == 0 {
		return nil
	}
	others := named(other, func(s lb.Service) string { return s.Name })
	for _, svc := range here {
		if o, ok := others[svc.Name]; ok {
			out = append(out, remaining(svc, o))
		}
	}
	return out
}

// leftBehind lists the services that an earlier daemon had on IPVS, as they are by now.
func leftBehind(ipvs lb.Backend, services []lb.Service) []lb.Service {
	o, ok := ipvs.(Owner)
	if !ok {
		return nil
	}
	owned := map[string]bool{}
	for _, name := range o.Owned() {
		owned[name] = true
	}
	return slices.DeleteFunc(slices.Clone(services), func(s lb.Service) bool { return !owned[s.Name] })
}

// apart drops those whose address or mark somebody else has now.
func apart(all, others []lb.Service) []lb.Service {
	return slices.DeleteFunc(all, func(svc lb.Service) bool {
		return slices.ContainsFunc(others, func(o lb.Service) bool { return collide(svc, o) })
	})
}

// remaining is svc with the reals only that it still has elsewhere: a real
// that is down or removed ends its connections here too.
func remaining(svc, elsewhere lb.Service) lb.Service {
	svc.Reals = slices.DeleteFunc(slices.Clone(svc.Reals), func(r lb.Real) bool {
		return !slices.ContainsFunc(elsewhere.Reals, func(e lb.Real) bool { return e.Addr == r.Addr })
	})
	return svc
}

func collide(a, b lb.Service) bool {
	if a.Mark != 0 && a.Mark == b.Mark && a.IsIPv6() == b.IsIPv6() {
		return true
	}
	for _, l := range a.Listeners {
		for _, m := range b.Listeners {
			if l.Addr == m.Addr && l.Proto == m.Proto && overlap(l, m) {
				return true
			}
		}
	}
	return false
}

func overlap(a, b lb.Listener) bool {
	return a.EveryPort() || b.EveryPort() || a.First <= b.Last && b.First <= a.Last
}

// draining lists the services that XDP keeps for the connections they have,
// without listeners: new ones are IPVS's.
func (b *Backend) draining(next halves) []lb.Service {
	if b.xdp == nil {
		return nil
	}
	all := leaving(b.onXDP, next.ipvs)
	all = stillBusy(b.xdp, all, func(svc lb.Service) bool { return len(svc.Listeners) == 0 })
	for i := range all {
		all[i].Listeners = nil
	}
	return all
}

// release takes out of IPVS what XDP has taken over, as far as no connection
// needs it.
func (b *Backend) release(ctx context.Context, s lb.State, next halves) error {
	if len(b.onIPVS) == len(next.ipvs) || b.ipvs == nil {
		return nil
	}
	busy := stillBusy(b.ipvs, b.onIPVS[len(next.ipvs):], func(lb.Service) bool { return true })
	if len(next.ipvs)+len(busy) == len(b.onIPVS) {
		return nil
	}
	return b.applyIPVS(ctx, s, slices.Concat(next.ipvs, busy))
}

// stillBusy keeps those services that have a connection where they are. Only
// those that count are asked; the others stay.
func stillBusy(at lb.Backend, all []lb.Service, counts func(lb.Service) bool) []lb.Service {
	if !slices.ContainsFunc(all, counts) {
		return all
	}
	stats, err := at.Stats()
	if err != nil {
		return all // the next Apply asks again
	}
	busy := map[string]bool{}
	for _, s := range stats.Services {
		for _, r := range s.Reals {
			busy[s.Name] = busy[s.Name] || r.Active+r.Inactive > 0
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(svc lb.Service) bool { return counts(svc) && !busy[svc.Name] })
}
