package sched

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustBuild(t rapid.TB, scheduler string, flags Flags, reals []Real, prev *Ring, picks uint64) *Ring {
	t.Helper()
	r, err := Build(scheduler, flags, reals, prev, picks)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func realsOf(weights ...uint16) []Real {
	var reals []Real
	for i, w := range weights {
		reals = append(reals, testReal(uint32(i+1), w))
	}
	return reals
}

func testReal(id uint32, weight uint16) Real {
	return Real{ID: id, Weight: weight, Port: 80, Addr: netip.AddrFrom4([4]byte{10, 0, byte(id >> 8), byte(id)})}
}

func TestBuildErrors(t *testing.T) {
	many := make([]Real, MaxSlots+1)
	for i := range many {
		many[i] = testReal(uint32(i), 1)
	}
	for _, c := range []struct {
		name, scheduler string
		reals           []Real
		want            string
	}{
		{"unknown scheduler", "lblc", nil, `scheduler "lblc": not known`},
		{"no scheduler", "", nil, "not known"},
		{"ID twice", "rr", []Real{{ID: 1}, {ID: 1}}, "real 1 (IDs must be unique"},
		{"ID is None", "rr", []Real{{ID: None}}, "IDs must be unique and not None"},
		{"too many for a ring", "wrr", many, "65537 reals (at most 65536 fit)"},
		{"too many for mh", "mh", many[:MHTableSize+1], "4094 reals (at most 4093 fit)"},
		{"mh without address", "mh", []Real{{ID: 7, Weight: 1}}, "real 7 without an address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Build(c.scheduler, 0, c.reals, nil, 0)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestEmptyRings(t *testing.T) {
	client := netip.MustParseAddr("192.0.2.1")
	for scheduler := range builders {
		for name, reals := range map[string][]Real{"no real": nil, "all quiesced": realsOf(0, 0)} {
			r := mustBuild(t, scheduler, SHFallback|MHFallback, reals, nil, 0)
			for _, got := range []uint32{r.PickHash(client, 0, nil), r.PickLeast(func(uint32) Load { return Load{} })} {
				if got != None {
					t.Errorf("%s, %s: picked %d", scheduler, name, got)
				}
			}
			if scheduler == "rr" || scheduler == "wrr" {
				if got := r.Pick(3); got != None {
					t.Errorf("%s, %s: picked %d", scheduler, name, got)
				}
			}
		}
	}
}

// genReals draws up to max reals with distinct IDs and weights up to heaviest.
func genReals(t *rapid.T, max, heaviest int) []Real {
	ids := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 40), 0, max, rapid.ID).Draw(t, "ids")
	var reals []Real
	for _, id := range ids {
		reals = append(reals, testReal(id, uint16(rapid.IntRange(0, heaviest).Draw(t, "weight"))))
	}
	return reals
}

func picksOf(r *Ring, from, n int) []uint32 {
	var got []uint32
	for i := range n {
		got = append(got, r.Pick(uint64(from+i)))
	}
	return got
}

// A rebuild that changes nothing must not be seen in the order of picks,
// however often it happens.
func TestRebuildUnchanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scheduler := rapid.SampledFrom([]string{"rr", "wrr"}).Draw(t, "scheduler")
		r := mustBuild(t, scheduler, 0, genReals(t, 8, 9), nil, 0)
		r = mustBuild(t, scheduler, 0, genReals(t, 8, 9), r, rapid.Uint64Range(0, 50).Draw(t, "before"))
		reals := slices.Collect(func(yield func(Real) bool) {
			for _, d := range slices.Backward(r.walk) {
				if !yield(d.Real) {
					return
				}
			}
		})
		want := picksOf(r, 0, 60)
		var got []uint32
		for len(got) < 60 {
			n := rapid.IntRange(0, 7).Draw(t, "picks")
			got = append(got, picksOf(r, 0, n)...)
			r = mustBuild(t, scheduler, 0, reals, r, uint64(n))
			if n == 0 {
				got = append(got, picksOf(r, 0, 1)...)
				r = mustBuild(t, scheduler, 0, reals, r, 1)
			}
		}
		if !slices.Equal(got[:60], want) {
			t.Fatalf("%s %v: got %v, want %v", scheduler, reals, got[:60], want)
		}
	})
}

// In one cycle every real gets its weight, divided by the common divisor.
func TestSharesOfACycle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reals := genReals(t, 10, 200)
		r := mustBuild(t, "wrr", 0, reals, nil, 0)
		var weights []int
		for _, real := range reals {
			weights = append(weights, int(real.Weight))
		}
		for i, real := range reals {
			want := 0
			if g := gcdOf(weights); g > 0 {
				want = weights[i] / g
			}
			if got := count(r.Slots, real.ID); got != want {
				t.Fatalf("real %d: %d slots, want %d", real.ID, got, want)
			}
		}
		if r.Scaled {
			t.Fatal("scaled without need")
		}
	})
}

func count(slots []uint32, id uint32) int {
	n := 0
	for _, s := range slots {
		if s == id {
			n++
		}
	}
	return n
}

// Weights whose cycle is too long are scaled: the ring fits, no real is lost,
// and shares are right to within a slot.
func TestScaledShares(t *testing.T) {
	for _, weights := range [][]uint16{
		{65535, 65534},
		{65535, 65534, 65533, 1},
		{65535, 65535, 65535, 2, 0},
		append(slices.Repeat([]uint16{1}, 60000), slices.Repeat([]uint16{65535}, 500)...),
		append(slices.Repeat([]uint16{1}, MaxSlots-1), 65535),
	} {
		r := mustBuild(t, "wrr", 0, realsOf(weights...), nil, 0)
		if !r.Scaled || len(r.Slots) > MaxSlots {
			t.Errorf("%d reals: scaled %v, %d slots", len(weights), r.Scaled, len(r.Slots))
		}
		got := map[uint32]int{}
		for _, id := range r.Slots {
			got[id]++
		}
		for i, w := range weights {
			n := got[uint32(i+1)]
			if (n > 0) != (w > 0) {
				t.Fatalf("%d reals: real %d with weight %d has %d slots", len(weights), i+1, w, n)
			}
		}
	}
	if r := mustBuild(t, "wrr", 0, realsOf(65535, 1), nil, 0); r.Scaled || len(r.Slots) != MaxSlots {
		t.Errorf("65535, 1: scaled %v, %d slots", r.Scaled, len(r.Slots))
	}
	if r := mustBuild(t, "wrr", 0, realsOf(60000, 30000, 60000), nil, 0); r.Scaled || len(r.Slots) != 5 {
		t.Errorf("a common divisor: scaled %v, %d slots", r.Scaled, len(r.Slots))
	}
	r := mustBuild(t, "wrr", 0, realsOf(40000, 20001, 10000), nil, 0)
	a, b, c := count(r.Slots, 1), count(r.Slots, 2), count(r.Slots, 3)
	if !r.Scaled || abs(a-2*b) > 3 || abs(a-4*c) > 5 || a+b+c < MaxSlots-3 {
		t.Errorf("40000, 20001, 10000: %d, %d and %d slots", a, b, c)
	}
}

func abs(x int) int { return max(x, -x) }

// Picks go on for ever: the counter wraps without a panic or a jump out of
// the ring.
func TestPickFarOut(t *testing.T) {
	const last = ^uint64(0)
	r := mustBuild(t, "rr", 0, realsOf(1, 1, 1), nil, 0)
	if got, want := r.Pick(last), r.Slots[last%3]; got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestChangeOfScheduler(t *testing.T) {
	reals := realsOf(3, 1, 2)
	rr := mustBuild(t, "rr", 0, reals, nil, 0)
	wrr := mustBuild(t, "wrr", 0, reals, rr, 2) // as if rr had never been: from the heaviest
	if got, want := picksOf(wrr, 0, 6), []uint32{1, 3, 1, 3, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("rr to wrr: got %v, want %v", got, want)
	}
	rr = mustBuild(t, "rr", 0, reals, wrr, 4)
	if got, want := picksOf(rr, 0, 4), []uint32{3, 2, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("wrr to rr: got %v, want %v", got, want)
	}
}

func ExampleBuild() {
	reals := []Real{{ID: 1, Weight: 3}, {ID: 2, Weight: 1}, {ID: 3, Weight: 2}}
	ring, _ := Build("wrr", 0, reals, nil, 0)
	for n := range uint64(6) {
		fmt.Print(ring.Pick(n), " ")
	}
	reals[1].Weight = 4
	ring, _ = Build("wrr", 0, reals, ring, 6)
	for n := range uint64(6) {
		fmt.Print(ring.Pick(n), " ")
	}
	// Output: 3 2 1 1 3 1 3 2 1 3 2 1
}
