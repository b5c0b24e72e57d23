package ipvs

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cloudflare/ipvs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func dest(n int, weight uint32) ipvs.Destination {
	return ipvs.Destination{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Port: 80, Weight: weight, FwdMethod: ipvs.DirectRoute, Family: ipvs.INET}
}

// lists draws what the kernel has and what it should have: a few of ten reals
// each, in any order.
func lists(t *rapid.T) (have, want []ipvs.Destination) {
	list := func(label string) []ipvs.Destination {
		order := rapid.Permutation([]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}).Draw(t, label+" order")
		var ds []ipvs.Destination
		for _, n := range order[:rapid.IntRange(0, 10).Draw(t, label+" length")] {
			ds = append(ds, dest(n, rapid.Uint32Range(0, 3).Draw(t, "weight")))
		}
		return ds
	}
	return list("have"), list("want")
}

// take does a step on a list that is kept oldest first.
func take(list []ipvs.Destination, s step) []ipvs.Destination {
	i := index(list, s.real)
	switch s.action {
	case addReal:
		return append(list, s.real)
	case moveReal:
		return append(slices.Delete(list, i, i+1), s.real)
	case editReal:
		list[i] = s.real
		return list
	}
	return slices.Delete(list, i, i+1)
}

func TestStepsReachTheList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := lists(t)
		list := slices.Clone(have)
		for _, s := range steps(have, want) {
			i := index(list, s.real)
			if (i < 0) != (s.action == addReal) {
				t.Fatalf("step %v on a list that has it at %d", s, i)
			}
			list = take(list, s)
		}
		if diff := cmp.Diff(want, list, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); len(want)+len(list) > 0 && diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// TestStepsKeep: nothing that both lists have is ever missing but the one
// real that is being moved, nothing changes if nothing has to, and reals are
// removed last.
func TestStepsKeep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := lists(t)
		all := steps(have, want)
		if slices.EqualFunc(have, want, func(a, b ipvs.Destination) bool { return a == b }) && len(all) > 0 {
			t.Fatalf("equal lists, steps %v", all)
		}
		list := slices.Clone(have)
		for i, s := range all {
			if s.action == removeReal && index(want, s.real) >= 0 {
				t.Fatalf("step %v removes what is wanted", s)
			}
			if i > 0 && all[i-1].action > s.action && (s.action == addReal || s.action == moveReal) != (all[i-1].action == moveReal) {
				t.Fatalf("step %v after %v", s, all[i-1])
			}
			list = take(list, s)
			for _, d := range have {
				if index(want, d) >= 0 && index(list, d) < 0 {
					t.Fatalf("%s is missing after step %v", d.Address, s)
				}
			}
		}
	})
}

// TestStepsLeavePrefix: what both lists begin with is not taken out, whatever
// happens behind it.
func TestStepsLeavePrefix(t *testing.T) {
	have := []ipvs.Destination{dest(1, 1), dest(2, 1), dest(3, 1), dest(4, 1)}
	for _, c := range []struct {
		name string
		want []ipvs.Destination
		take []step
	}{
		{"same", have, nil},
		{"append", append(slices.Clone(have), dest(5, 1)), []step{{addReal, dest(5, 1)}}},
		{"remove from the middle", []ipvs.Destination{dest(1, 1), dest(2, 1), dest(4, 1)}, []step{{removeReal, dest(3, 1)}}},
		{
			"insert before the last", []ipvs.Destination{dest(1, 1), dest(2, 1), dest(3, 1), dest(5, 1), dest(4, 1)},
			[]step{{addReal, dest(5, 1)}, {moveReal, dest(4, 1)}},
		},
		{
			"swap the last two, edit the first", []ipvs.Destination{dest(1, 9), dest(2, 1), dest(4, 1), dest(3, 2)},
			[]step{{moveReal, dest(4, 1)}, {moveReal, dest(3, 2)}, {editReal, dest(1, 9)}},
		},
	} {
		got := steps(have, c.want)
		if !slices.EqualFunc(got, c.take, func(a, b step) bool { return a == b }) {
			t.Errorf("%s: steps %v, want %v", c.name, got, c.take)
		}
	}
}

func TestEqualLocal(t *testing.T) {
	want, have := dest(1, 1), dest(1, 1)
	have.FwdMethod = ipvs.Local
	if !equal(have, want) {
		t.Error("a real that the kernel calls local differs")
	}
	have.FwdMethod = ipvs.Tunnel
	if equal(have, want) {
		t.Error("tunnel and direct routing are the same")
	}
	for _, change := range []func(*ipvs.Destination){
		func(d *ipvs.Destination) { d.TunnelType = ipvs.GUE }, func(d *ipvs.Destination) { d.TunnelPort = 6080 },
		func(d *ipvs.Destination) { d.TunnelFlags = ipvs.TunnelEncapChecksum },
	} {
		other := want
		change(&other)
		if equal(other, want) {
			t.Errorf("tunnels of %+v and %+v are the same", other, want)
		}
	}
}
