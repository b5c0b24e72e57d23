package sched

import "slices"

// Load is what the connection-counting schedulers compare: the counters of
// one real, kept by the packet path.
type Load struct {
	Active     uint32 // connections that IPVS counts as active
	Inactive   uint32 // all others
	Weight     uint16 // 0 = quiesced, never chosen
	Overloaded bool   // above its upper threshold, never chosen
}

func (l Load) isUsable() bool { return l.Weight > 0 && !l.Overloaded }

// overhead is ip_vs_dest_conn_overhead: an active connection weighs as much
// as 256 inactive ones.
func (l Load) overhead() uint64 { return uint64(l.Active)<<8 + uint64(l.Inactive) }

// delay is the overhead of sed and nq: the active connections and the new
// one.
func (l Load) delay() uint64 { return uint64(l.Active) + 1 }

// isHeavier compares cost per weight, a/wa > b/wb, without dividing.
func isHeavier(a uint64, wa uint16, b uint64, wb uint16) bool {
	return a*uint64(wb) > b*uint64(wa)
}

// buildLeast lists the reals with a weight in the order of the walk. The
// kernel compares strictly, so that of equal reals the first in that order
// wins.
func buildLeast(r, _ *Ring, _ uint64) error {
	for _, d := range r.walk {
		if d.Weight > 0 {
			r.Slots = append(r.Slots, d.ID)
		}
	}
	return nil
}

// PickLeast is the pick of a ring of lc, wlc, sed, nq, fo or ovf, by the same steps as
// the packet path; load gives the counters of a real now, and the ring adds
// its weight. It returns None if no real is usable.
func (r *Ring) PickLeast(load func(id uint32) Load) uint32 {
	choose, ok := map[string]func([]Load) int{"lc": LC, "wlc": WLC, "sed": SED, "nq": NQ, "fo": FO, "ovf": OVF}[r.Scheduler]
	if !ok {
		return None
	}
	loads := make([]Load, len(r.walk))
	for i, d := range r.walk {
		loads[i] = load(d.ID)
		loads[i].Weight = d.Weight
	}
	if i := choose(loads); i >= 0 {
		return r.walk[i].ID
	}
	return None
}

// pickLeast is the index of the first usable load that no other one beats, -1 if
// there is none.
func pickLeast(loads []Load, beats func(a, b Load) bool) int {
	best := -1
	for i, l := range loads {
		if l.isUsable() && (best < 0 || beats(l, loads[best])) {
			best = i
		}
	}
	return best
}

// firstIdle is the index of the first usable load without active connections, -1
// if there is none.
func firstIdle(loads []Load) int {
	return slices.IndexFunc(loads, func(l Load) bool { return l.isUsable() && l.Active == 0 })
}
