package sched

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The kernel's self-test of hsiphash (lib/siphash_kunit.c, 64-bit): the four
// bytes 0, 1, 2, 3 under the key 0, 1, ... 15.
func TestHSipHash(t *testing.T) {
	if got := hsiphash2(0x03020100, 0x0706050403020100, 0x0f0e0d0c0b0a0908); got != 0x88d38328 {
		t.Errorf("got %#x, want 0x88d38328", got)
	}
}

func TestFold(t *testing.T) {
	for addr, want := range map[string]uint32{
		"172.16.0.5":        0xac100005,
		"::ffff:172.16.0.5": 0xac100005,
		"2001:db8::1":       0x20010db8 ^ 1,
		"2001:db8:1:2:3::4": 0x20010db8 ^ 0x00010002 ^ 0x00030000 ^ 4,
	} {
		if got := foldAddr(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %#x, want %#x", addr, got, want)
		}
	}
}

var hashers = []string{"sh", "dh", "mh"}

func clients(n int) []netip.Addr {
	var all []netip.Addr
	for i := range n {
		all = append(all, netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}))
	}
	return all
}

// A hash ring depends on nothing but its reals: not on what was there before,
// not on the picks.
func TestHashRingsHaveNoPast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scheduler := rapid.SampledFrom(hashers).Draw(t, "scheduler")
		reals := genReals(t, 10, 20)
		reals = slices.DeleteFunc(reals, func(r Real) bool { return r.Weight == 0 }) // these have a past in mh
		fresh := mustBuild(t, scheduler, 0, reals, nil, 0)
		before := mustBuild(t, scheduler, 0, genReals(t, 10, 20), nil, 0)
		again := mustBuild(t, scheduler, 0, reals, before, rapid.Uint64().Draw(t, "picks"))
		if !slices.Equal(fresh.Slots, again.Slots) || fresh.Next != 0 || again.Next != 0 {
			t.Fatal("the same reals gave two rings")
		}
	})
}

// Without a fallback a client whose real is not usable is refused; with one it
// gets a usable real while there is any, and all others keep theirs.
func TestFallback(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scheduler := rapid.SampledFrom([]string{"sh", "mh"}).Draw(t, "scheduler")
		reals := genReals(t, 6, 3)
		up := map[uint32]bool{}
		alive := false
		for _, r := range reals {
			up[r.ID] = rapid.Bool().Draw(t, "up")
			alive = alive || up[r.ID] && r.Weight > 0
		}
		usable := func(id uint32) bool { return up[id] }
		byAddress := mustBuild(t, scheduler, SHPort|MHPort, reals, nil, 0)
		fallback := mustBuild(t, scheduler, SHPort|MHPort|SHFallback|MHFallback, reals, nil, 0)
		for _, c := range clients(64) {
			a, b := byAddress.PickHash(c, 5000, usable), fallback.PickHash(c, 5000, usable)
			if a != None && (a != b || !up[a]) {
				t.Fatalf("%s: %d without, %d with fallback", c, a, b)
			}
			// The hash of mh's fallback may miss a real that has one slot of
			// 4093; sh tries every bucket, but not every real need have one.
			if b == None && alive && scheduler == "sh" {
				t.Fatalf("%s: refused although a real is usable", c)
			}
			if b != None && !up[b] {
				t.Fatalf("%s: got %d, which is not usable", c, b)
			}
		}
	})
}

// The port counts only where a flag says so.
func TestPortFlags(t *testing.T) {
	reals := realsOf(1, 1, 1, 1, 1)
	client := netip.MustParseAddr("172.16.0.9")
	for _, c := range []struct {
		scheduler string
		flags     Flags
		spread    bool
	}{{"sh", 0, false}, {"sh", SHPort, true}, {"sh", MHPort, false}, {"mh", 0, false}, {"mh", MHPort, true}, {"mh", SHPort, false}, {"dh", SHPort | MHPort, false}} {
		r := mustBuild(t, c.scheduler, c.flags, reals, nil, 0)
		got := map[uint32]bool{}
		for port := range uint16(200) {
			got[r.PickHash(client, port, nil)] = true
		}
		if (len(got) > 1) != c.spread {
			t.Errorf("%s with flags %b: %d reals for one client", c.scheduler, c.flags, len(got))
		}
	}
}

// dh gives each real its turn whatever its weight, and refuses the quiesced.
func TestDH(t *testing.T) {
	r := mustBuild(t, "dh", 0, realsOf(5, 0, 1), nil, 0)
	if got, want := r.Slots[:7], []uint32{3, 2, 1, 3, 2, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("buckets: got %v, want %v", got, want)
	}
	for _, vip := range clients(256) {
		want := r.Slots[DHBucket(vip)]
		if want == 2 {
			want = None
		}
		if got := r.PickHash(vip, 0, nil); got != want {
			t.Errorf("%s: got %d, want %d", vip, got, want)
		}
	}
}

// Maglev's promise: equal reals get equal shares to within a slot, and the
// loss of one moves few clients of the others.
func TestMHBalanceAndDisruption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "reals")
		reals := realsOf(slices.Repeat([]uint16{3}, n)...)
		before := mustBuild(t, "mh", 0, reals, nil, 0)
		for _, r := range reals {
			if got := count(before.Slots, r.ID); got != MHTableSize/n && got != MHTableSize/n+1 {
				t.Fatalf("real %d of %d: %d slots", r.ID, n, got)
			}
		}
		removed := rapid.IntRange(0, n-1).Draw(t, "gone")
		after := mustBuild(t, "mh", 0, slices.Delete(slices.Clone(reals), removed, removed+1), before, 0)
		moved := 0
		for i, id := range before.Slots {
			if id != reals[removed].ID && after.Slots[i] != id {
				moved++
			}
		}
		if moved > MHTableSize/4 {
			t.Fatalf("%d reals: %d of %d slots of the others moved", n, moved, MHTableSize)
		}
	})
}

func TestMHWeights(t *testing.T) {
	for _, c := range []struct {
		weights []uint16
		share   float64 // of real 1
	}{
		{[]uint16{1, 1}, 0.5},
		{[]uint16{3, 1}, 0.75},
		{[]uint16{600, 200}, 0.75},
		{[]uint16{65535, 1}, 63.0 / 64}, // six bits at most
		{[]uint16{1, 0}, 1},
	} {
		r := mustBuild(t, "mh", 0, realsOf(c.weights...), nil, 0)
		got := float64(count(r.Slots, 1)) / MHTableSize
		if got < c.share-0.001 || got > c.share+0.001 {
			t.Errorf("%v: real 1 has %.4f of the table, want %.4f", c.weights, got, c.share)
		}
	}
}

// A quiesced real keeps its slots (by its last weight), so that nobody else's
// clients move; a real that never had a weight has none; one that left and
// came back quiesced is new.
func TestMHLastWeight(t *testing.T) {
	reals := realsOf(2, 4, 6)
	before := mustBuild(t, "mh", 0, reals, nil, 0)
	quiesced := slices.Clone(reals)
	quiesced[1].Weight = 0
	during := mustBuild(t, "mh", 0, quiesced, before, 0)
	during = mustBuild(t, "mh", 0, quiesced, during, 0)
	if !slices.Equal(before.Slots, during.Slots) {
		t.Error("quiescing a real moved slots")
	}
	for _, c := range clients(200) {
		if got, want := during.PickHash(c, 0, nil), before.PickHash(c, 0, nil); got != want && (want != 2 || got != None) {
			t.Errorf("%s: got %d, want %d or none", c, got, want)
		}
	}
	fresh := mustBuild(t, "mh", 0, quiesced, nil, 0)
	if got := count(fresh.Slots, 2); got != 0 {
		t.Errorf("a real that never had a weight has %d slots", got)
	}
	without := mustBuild(t, "mh", 0, []Real{reals[0], reals[2]}, during, 0)
	back := mustBuild(t, "mh", 0, quiesced, without, 0)
	if got := count(back.Slots, 2); got != 0 {
		t.Errorf("a real that came back quiesced has %d slots", got)
	}
}

func TestFallbackSlotsCoverTheTable(t *testing.T) {
	seen := map[int]bool{}
	for i := range HashBuckets {
		seen[SHFallbackBucket(77, i)] = true
	}
	if len(seen) != HashBuckets {
		t.Errorf("sh: %d buckets tried, want all", len(seen))
	}
	client := netip.MustParseAddr("172.16.3.4")
	if slot := MHSlot(client, 9, 0); MHFallbackSlot(client, 9, slot, MHTableSize-slot) != slot {
		t.Error("mh: the fallback does not wrap to offset 0")
	}
}

func BenchmarkBuildMH(b *testing.B) {
	reals := realsOf(slices.Repeat([]uint16{1}, 100)...)
	for b.Loop() {
		if _, err := Build("mh", 0, reals, nil, 0); err != nil {
			b.Fatal(err)
		}
	}
}
