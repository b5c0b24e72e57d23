package sched

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// kernel is a second, literal model of the rr and wrr modules: it walks its
// list destination by destination, where Build computes the whole cycle. list
// is in kernel order, at an index into it, -1 the head.
type kernel struct {
	scheduler  string
	list       []Real
	at         int
	cw, mw, di int
}

func (k *kernel) changed() {
	if k.scheduler != "wrr" {
		return
	}
	k.at, k.di, k.mw = -1, 0, 0
	for _, r := range k.list {
		for a, b := int(r.Weight), k.di; ; a, b = b, a%b {
			if b == 0 {
				k.di = a
				break
			}
		}
		k.mw = max(k.mw, int(r.Weight))
	}
	k.di = max(1, k.di)
	k.mw -= k.di - 1
	if k.cw > k.mw || k.cw == 0 {
		k.cw = k.mw
	} else if k.di > 1 {
		k.cw = k.cw/k.di*k.di + 1
	}
}

func (k *kernel) add(r Real) {
	k.list = slices.Insert(k.list, 0, r)
	if k.at >= 0 {
		k.at++
	}
	k.changed()
}

func (k *kernel) edit(id uint32, weight uint16) {
	k.list[k.find(id)].Weight = weight
	k.changed()
}

func (k *kernel) del(id uint32) {
	i := k.find(id)
	k.list = slices.Delete(k.list, i, i+1)
	if k.at >= i {
		k.at--
	}
	k.changed()
}

func (k *kernel) find(id uint32) int {
	return slices.IndexFunc(k.list, func(r Real) bool { return r.ID == id })
}

func (k *kernel) pick() uint32 {
	limit := 1 // rr: the least weight that counts
	for range 2 * (len(k.list) + 1) * (k.mw/max(1, k.di) + 2) {
		if k.at++; k.at == len(k.list) {
			k.at = -1
			if k.scheduler == "wrr" && k.mw > 0 {
				if k.cw -= k.di; k.cw <= 0 {
					k.cw = k.mw
				}
			}
			continue
		}
		if k.scheduler == "wrr" {
			limit = k.cw
		}
		if r := k.list[k.at]; r.Weight > 0 && int(r.Weight) >= limit {
			return r.ID
		}
	}
	return None
}

// Whatever one edits, one step at a time, rings pick as the kernel's walk
// does.
func TestEditsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &kernel{scheduler: rapid.SampledFrom([]string{"rr", "wrr"}).Draw(t, "scheduler"), at: -1}
		k.changed()
		var reals []Real
		ring, picks := mustBuild(t, k.scheduler, 0, nil, nil, 0), uint64(0)
		weight := rapid.Custom(func(t *rapid.T) uint16 {
			return uint16(rapid.IntRange(0, 6).Draw(t, "w") * rapid.SampledFrom([]int{1, 1, 2, 6}).Draw(t, "x"))
		})
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			i := rapid.IntRange(0, len(reals)).Draw(t, "real")
			switch {
			case i == len(reals):
				r := testReal(freeID(reals), weight.Draw(t, "weight"))
				reals = append(reals, r)
				k.add(r)
			case rapid.Bool().Draw(t, "delete"):
				k.del(reals[i].ID)
				reals = slices.Delete(reals, i, i+1)
			default:
				w := weight.Draw(t, "weight")
				if w == reals[i].Weight {
					continue
				}
				reals[i].Weight = w
				k.edit(reals[i].ID, w)
			}
			ring, picks = mustBuild(t, k.scheduler, 0, reals, ring, picks), 0
			if ring.Next < 0 || ring.Next >= max(1, len(ring.Slots)) {
				t.Fatalf("next slot %d of %d", ring.Next, len(ring.Slots))
			}
			for range rapid.IntRange(0, 12).Draw(t, "picks") {
				if got, want := ring.Pick(picks), k.pick(); got != want {
					t.Fatalf("%s %v: pick %d: got %d, want %d", k.scheduler, reals, picks, got, want)
				}
				picks++
			}
		}
	})
}

func freeID(reals []Real) uint32 {
	id := uint32(1)
	for slices.ContainsFunc(reals, func(r Real) bool { return r.ID == id }) {
		id++
	}
	return id
}

// A new service built in one go picks as one whose reals came one by one.
func TestOneBuildIsManyAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scheduler := rapid.SampledFrom([]string{"rr", "wrr"}).Draw(t, "scheduler")
		reals := genReals(t, 8, 12)
		k := &kernel{scheduler: scheduler, at: -1}
		k.changed()
		for _, r := range reals {
			k.add(r)
		}
		ring := mustBuild(t, scheduler, 0, reals, nil, 0)
		for n := range 40 {
			if got, want := ring.Pick(uint64(n)), k.pick(); got != want {
				t.Fatalf("%s %v: pick %d: got %d, want %d", scheduler, reals, n, got, want)
			}
		}
	})
}
