package director

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// ZeroedService is what the counters of a service stood at when ipvsadm -Z
// hid them. The data path counts on.
type ZeroedService struct {
	Name string `json:"name"`
	lb.Counters
	Reals []ZeroedReal `json:"reals,omitempty"`
}

// ZeroedReal is the same of a real.
type ZeroedReal struct {
	Real netip.AddrPort `json:"real"`
	lb.Counters
}

// zeroCounters notes what the counters of services stand at, beside what was
// noted of others.
func (d *Director) zeroCounters(t *runtimeTable, names []string) ([]ZeroedService, error) {
	kept := t.zeroedOf(d.runtime.Zeroed)
	if len(names) == 0 {
		return kept, nil
	}
	st, err := d.opt.Backend.Stats()
	if err != nil {
		return nil, err
	}
	now := map[string]bool{}
	for _, name := range names {
		now[name] = true
	}
	var all []ZeroedService
	for _, z := range kept {
		if !now[z.Name] {
			all = append(all, z)
		}
	}
	for _, s := range st.Services {
		if !now[s.Name] {
			continue
		}
		z := ZeroedService{Name: s.Name, Counters: s.Counters}
		for _, r := range slices.Concat(s.Reals, s.Absent) {
			z.Reals = append(z.Reals, ZeroedReal{netip.AddrPortFrom(r.Addr, r.Port), r.Counters})
		}
		all = append(all, z)
	}
	return all, nil
}

// zeroedOf is what was noted of services that are there: counters of others that
// return begin anew.
func (t *runtimeTable) zeroedOf(all []ZeroedService) (kept []ZeroedService) {
	if len(all) == 0 {
		return nil
	}
	there := make(map[string]bool, len(t.Services))
	for _, e := range t.Services {
		there[t.names[e]] = true
	}
	for _, z := range all {
		if there[z.Name] {
			kept = append(kept, z)
		}
	}
	return kept
}

// forgetRestarted forgets what was noted of counters that have begun anew since.
func (d *Director) forgetRestarted(st *lb.Stats) {
	if next, changed := d.runtime.withoutRestarted(st); changed {
		d.runtime = next
		d.keepRuntime()
	}
}

// withoutRestarted is the layer without what was noted of counters that are below
// it, and whether there are any.
func (rt *Runtime) withoutRestarted(st *lb.Stats) (next Runtime, changed bool) {
	if len(rt.Zeroed) == 0 {
		return *rt, false
	}
	next = *rt
	next.Zeroed = slices.Clone(rt.Zeroed)
	zeroed := make(map[string]*ZeroedService, len(next.Zeroed))
	for i := range next.Zeroed {
		zeroed[next.Zeroed[i].Name] = &next.Zeroed[i]
	}
	for i := range st.Services {
		s := &st.Services[i]
		z := zeroed[s.Name]
		if z == nil {
			continue
		}
		if isBelow(s.Counters, z.Counters) {
			z.Counters, changed = lb.Counters{}, true
		}
		isRestarted := func(zr ZeroedReal) bool {
			r, ok := s.Real(zr.Real)
			return ok && isBelow(r.Counters, zr.Counters)
		}
		if slices.ContainsFunc(z.Reals, isRestarted) {
			z.Reals, changed = slices.DeleteFunc(slices.Clone(z.Reals), isRestarted), true
		}
	}
	return next, changed
}

// isBelow reports whether a counter is below what it stood at.
func isBelow(now, then lb.Counters) bool {
	return now.Conns < then.Conns || now.InPkts < then.InPkts || now.InBytes < then.InBytes || now.OutPkts < then.OutPkts || now.OutBytes < then.OutBytes
}

// hideZeroed takes from counters what they stood at when they were zeroed.
func (rt *Runtime) hideZeroed(st *lb.Stats) {
	if len(rt.Zeroed) == 0 {
		return
	}
	zeroed := make(map[string]*ZeroedService, len(rt.Zeroed))
	for i := range rt.Zeroed {
		zeroed[rt.Zeroed[i].Name] = &rt.Zeroed[i]
	}
	for i := range st.Services {
		z := zeroed[st.Services[i].Name]
		if z == nil {
			continue
		}
		st.Services[i].Counters = since(st.Services[i].Counters, z.Counters)
		st.Services[i].Reals = slices.Clone(st.Services[i].Reals)
		for k := range st.Services[i].Reals {
			r := &st.Services[i].Reals[k]
			for _, zr := range z.Reals {
				if zr.Real == netip.AddrPortFrom(r.Addr, r.Port) {
					r.Counters = since(r.Counters, zr.Counters)
				}
			}
		}
	}
}

// since is what counters counted from a point on; one that is below it has
// begun anew.
func since(now, then lb.Counters) lb.Counters {
	sub := func(a, b uint64) uint64 {
		if a < b {
			return a
		}
		return a - b
	}
	return lb.Counters{
		Conns: sub(now.Conns, then.Conns), InPkts: sub(now.InPkts, then.InPkts), InBytes: sub(now.InBytes, then.InBytes),
		OutPkts: sub(now.OutPkts, then.OutPkts), OutBytes: sub(now.OutBytes, then.OutBytes),
	}
}
