package sched

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestLeast(t *testing.T) {
	load := func(active, inactive uint32, weight uint16) Load {
		return Load{Active: active, Inactive: inactive, Weight: weight}
	}
	over := Load{Weight: 9, Overloaded: true}
	for _, c := range []struct {
		name             string
		loads            []Load
		lc, wlc, sed, nq int
	}{
		{"nobody", nil, -1, -1, -1, -1},
		{"nobody usable", []Load{load(0, 0, 0), over}, -1, -1, -1, -1},
		{"ties go to the first", []Load{load(1, 1, 2), load(1, 1, 2), load(1, 1, 2)}, 0, 0, 0, 0},
		{"quiesced and overloaded are passed over", []Load{load(0, 0, 0), over, load(7, 7, 1)}, 2, 2, 2, 2},
		{"an active one weighs 256 inactive ones", []Load{load(1, 0, 1), load(0, 255, 1)}, 1, 1, 1, 1},
		{"and no less", []Load{load(1, 0, 1), load(0, 256, 1)}, 0, 0, 1, 1},
		{"weight divides", []Load{load(3, 0, 1), load(5, 0, 2)}, 0, 1, 1, 1},
		{"an empty service: sed goes by weight, wlc by order", []Load{load(0, 0, 1), load(0, 0, 3)}, 0, 0, 1, 0},
		{"nq takes the idle one however light", []Load{load(1, 0, 9), load(0, 0, 1)}, 1, 1, 0, 1},
		{"inactive ones count not for sed", []Load{load(1, 500, 1), load(2, 0, 1)}, 1, 1, 0, 0},
		{"large counts do not overflow", []Load{load(1<<31, 0, 1), load(1<<31, 0, 65535)}, 0, 1, 1, 1},
	} {
		for _, s := range []struct {
			name   string
			choose func([]Load) int
			want   int
		}{{"lc", LC, c.lc}, {"wlc", WLC, c.wlc}, {"sed", SED, c.sed}, {"nq", NQ, c.nq}} {
			if got := s.choose(c.loads); got != s.want {
				t.Errorf("%s: %s chose %d, want %d", c.name, s.name, got, s.want)
			}
		}
	}
}

// The slots are the candidates in the kernel's order, and the pick compares
// them in it.
func TestPickLeast(t *testing.T) {
	r := mustBuild(t, "wlc", 0, realsOf(1, 0, 1), nil, 0)
	if want := []uint32{3, 1}; !slices.Equal(r.Slots, want) {
		t.Errorf("slots: got %v, want %v", r.Slots, want)
	}
	active := map[uint32]uint32{}
	load := func(id uint32) Load { return Load{Active: active[id]} }
	var got []uint32
	for range 5 {
		id := r.PickLeast(load)
		active[id]++
		got = append(got, id)
	}
	if want := []uint32{3, 1, 3, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("picks: got %v, want %v", got, want)
	}
	overloaded := func(uint32) Load { return Load{Overloaded: true} }
	if got := r.PickLeast(overloaded); got != None {
		t.Errorf("all overloaded: picked %d", got)
	}
	if got := mustBuild(t, "rr", 0, realsOf(1), nil, 0).PickLeast(load); got != None {
		t.Errorf("rr: picked %d by load", got)
	}
}

// With connections that never end, every scheduler but lc shares them by
// weight.
func TestLeastSharesByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scheduler := rapid.SampledFrom([]string{"lc", "wlc", "sed", "nq"}).Draw(t, "scheduler")
		n := rapid.IntRange(1, 6).Draw(t, "reals")
		var weights []uint16
		sum := 0
		for range n {
			w := uint16(rapid.IntRange(1, 5).Draw(t, "weight"))
			if scheduler == "lc" {
				w = 1
			}
			weights = append(weights, w)
			sum += int(w)
		}
		r := mustBuild(t, scheduler, 0, realsOf(weights...), nil, 0)
		active := map[uint32]uint32{}
		for range sum * 10 {
			active[r.PickLeast(func(id uint32) Load { return Load{Active: active[id]} })]++
		}
		for i, w := range weights {
			if got, want := int(active[uint32(i+1)]), 10*int(w); abs(got-want) > int(w)+1 {
				t.Fatalf("%s %v: real %d has %d connections, want about %d", scheduler, weights, i+1, got, want)
			}
		}
	})
}

func BenchmarkWLC(b *testing.B) {
	loads := make([]Load, 100)
	for i := range loads {
		loads[i] = Load{Active: rand.Uint32N(1000), Weight: 1}
	}
	for b.Loop() {
		WLC(loads)
	}
}
