package sched

import (
	"slices"
	"sort"
)

// wrrState is the kernel's struct ip_vs_wrr_mark, apart from the current
// destination, and what is needed to find it again for a slot.
//
// The kernel passes over its list again and again. A pass takes every real
// whose weight is at least cw; then cw falls by di, and from below 1 it goes
// back to mw. One cycle is the passes from mw down to 1: that is the ring.
type wrrState struct {
	cw    int   // the weight required when this ring was built, before any pick on it; 0 if there never was a weight
	mw    int   // the largest weight less di-1, 0 without weights
	di    int   // the greatest common divisor of all weights, at least 1
	start []int // the first slot of each pass; pass k requires mw - k*di
}

// buildWRR lays out weighted round robin (ip_vs_wrr.c).
func buildWRR(r, prev *Ring, picks uint64) error {
	weights := r.wrrWeights()
	r.layPasses(weights)
	s := &r.wrr
	switch {
	case prev == nil:
		s.resetAfterEdit()
	case prev.Scheduler != "wrr": // ip_vs_wrr_init_svc, on a list that is there already
		s.cw = s.mw
	default:
		s.cw = prev.slotsNeeded(picks)
		if slices.Equal(prev.walk, r.walk) {
			if len(r.Slots) > 0 {
				r.Next = prev.slotOf(picks)
			}
			return nil
		}
		s.resetAfterEdit()
	}
	if s.mw > 0 {
		r.Next = s.start[(s.mw-s.cw)/s.di] // from the head of the list, in the pass that was under way
	}
	return nil
}

// resetAfterEdit is ip_vs_wrr_dest_changed: an edit sends the kernel back to the head
// of its list but keeps the required weight, as far as the new weights allow.
func (s *wrrState) resetAfterEdit() {
	switch {
	case s.cw > s.mw:
		s.cw = s.mw
	case s.cw == 0 && s.mw > 0:
		// Reals get their weights one by one, and the first that has one
		// makes cw = mw = w-(w-1); later ones leave that as it is.
		s.cw = 1
	case s.di > 1:
		s.cw = s.cw/s.di*s.di + 1
	}
}

// slotsNeeded is the kernel's cw after that many picks: the weight required in
// the pass of the last pick.
func (r *Ring) slotsNeeded(picks uint64) int {
	if picks == 0 || len(r.Slots) == 0 {
		return r.wrr.cw
	}
	i := r.slotOf(picks - 1)
	pass := sort.SearchInts(r.wrr.start, i+1) - 1
	return r.wrr.mw - pass*r.wrr.di
}

// layPasses fills in slots and state. The passes are laid from the last,
// which takes every real with a weight, to the first, so that each is the one
// before it without the reals that have become too light.
func (r *Ring) layPasses(weights []int) {
	s := &r.wrr
	s.di = 1
	if d := gcdOf(weights); d > 0 {
		s.di = d
	}
	s.mw = slices.Max(append(weights, 0)) - (s.di - 1)
	size := 0
	var pass []int // indices of the walk
	for i, w := range weights {
		size += w / s.di
		if w > 0 {
			pass = append(pass, i)
		}
	}
	r.Slots = make([]uint32, size)
	if size == 0 {
		return
	}
	s.start = make([]int, (s.mw-1)/s.di+1)
	for k, cw := len(s.start)-1, 1; k >= 0; k, cw = k-1, cw+s.di {
		pass = slices.DeleteFunc(pass, func(i int) bool { return weights[i] < cw })
		size -= len(pass)
		s.start[k] = size
		for n, i := range pass {
			r.Slots[size+n] = r.walk[i].ID
		}
	}
}

// wrrWeights are the weights of the walk, scaled down if their cycle would
// not fit into MaxSlots. A weight never becomes 0 by that.
func (r *Ring) wrrWeights() []int {
	weights := make([]int, len(r.walk))
	sum := 0
	for i, d := range r.walk {
		weights[i] = int(d.Weight)
		sum += weights[i]
	}
	di := gcdOf(weights)
	if di == 0 || sum/di <= MaxSlots {
		return weights
	}
	r.Scaled = true
	scaled := func(w, k int) int {
		if w == 0 {
			return 0
		}
		return max(1, w*k/sum)
	}
	// The largest k for which everything fits; k = 0 leaves one slot a real.
	k := sort.Search(MaxSlots, func(k int) bool {
		total := 0
		for _, w := range weights {
			total += scaled(w, k+1)
		}
		return total > MaxSlots
	})
	for i, w := range weights {
		weights[i] = scaled(w, k)
	}
	return weights
}

// gcdOf is the greatest common divisor of the weights that are not 0, and 0
// if all are.
func gcdOf(weights []int) int {
	g := 0
	for _, w := range weights {
		for w != 0 {
			g, w = w, g%w
		}
	}
	return g
}
