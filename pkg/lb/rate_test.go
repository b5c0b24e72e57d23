package lb

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// ipvs-facts/11: the numbers that ipvsadm --rate showed every two seconds
// after one burst of connections: of the service 10.0.0.100:80 and its two
// busy reals.
func TestEstimatorDecay(t *testing.T) {
	for _, c := range []struct {
		name  string
		burst Counters
		want  []Rates
	}{
		{"10.0.0.100:80", Counters{Conns: 12, InPkts: 21, InBytes: 3840}, []Rates{
			{CPS: 1, InPPS: 2, InBPS: 360}, {CPS: 1, InPPS: 1, InBPS: 270}, {CPS: 1, InPPS: 1, InBPS: 202}, {InPPS: 1, InBPS: 152},
			{InPPS: 1, InBPS: 114}, {InBPS: 85}, {InBPS: 64},
		}},
		{"10.0.0.11:80", Counters{Conns: 9, InPkts: 18, InBytes: 3720}, []Rates{
			{CPS: 1, InPPS: 2, InBPS: 349}, {CPS: 1, InPPS: 1, InBPS: 262}, {InPPS: 1, InBPS: 196}, {InPPS: 1, InBPS: 147},
			{InPPS: 1, InBPS: 110}, {InBPS: 83}, {InBPS: 62},
		}},
		{"10.0.0.12:80", Counters{Conns: 3, InPkts: 3, InBytes: 120}, []Rates{
			{InBPS: 11}, {InBPS: 8}, {InBPS: 6}, {InBPS: 5}, {InBPS: 4}, {InBPS: 3}, {InBPS: 2},
		}},
		{"10.0.0.100:514", Counters{Conns: 1, InPkts: 1, InBytes: 29, OutPkts: 2, OutBytes: 86}, []Rates{{InBPS: 3, OutBPS: 8}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var e Estimator
			e.Feed(c.burst)
			for i, want := range c.want {
				e.Feed(c.burst)
				if diff := cmp.Diff(want, e.Rates()); diff != "" {
					t.Errorf("%d s after the first reading (-want +got):\n%s", 2*i, diff)
				}
			}
		})
	}
}

// ipvs-facts/12: large packets, 60,028 bytes each. Packets per period are
// what the byte counters between two readings allow; the last burst, of 18,300
// packets, came at an even pace over some three periods.
func TestEstimatorLarge(t *testing.T) {
	var e Estimator
	c := Counters{Conns: 1}
	feed := func(periods ...uint64) {
		for _, packets := range periods {
			c.InPkts += packets
			c.InBytes += packets * 60028
			e.Feed(c)
		}
	}
	for _, step := range []struct {
		periods []uint64
		bytes   uint64
		want    Rates
	}{
		{[]uint64{100}, 6002800, Rates{InPPS: 12, InBPS: 750350}},
		{[]uint64{1566, 0}, 100006648, Rates{InPPS: 154, InBPS: 9234933}},
		{[]uint64{34}, 102047600, Rates{InPPS: 120, InBPS: 7181318}},
		{[]uint64{5754, 5787, 5787, 972}, 1200560000, Rates{InPPS: 1412, InBPS: 84772493}},
	} {
		feed(step.periods...)
		if c.InBytes != step.bytes {
			t.Fatalf("%d bytes fed, want %d", c.InBytes, step.bytes)
		}
		if diff := cmp.Diff(step.want, e.Rates()); diff != "" {
			t.Errorf("after %d bytes (-want +got):\n%s", step.bytes, diff)
		}
	}
}

// A steady rate is reached and kept; silence ends in exactly 0.
func TestEstimatorSteady(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.Uint64Range(1, 1<<34).Draw(t, "rate")
		start := Counters{InBytes: rapid.Uint64Range(0, 1<<60).Draw(t, "start")}
		e, c := NewEstimator(start), start
		last := uint64(0)
		for range 150 {
			c.InBytes += 2 * perSecond
			e.Feed(c)
			if got := e.Rates().InBPS; got < last || got > perSecond {
				t.Fatalf("%d per second after %d, on the way to %d", got, last, perSecond)
			}
			last = e.Rates().InBPS
		}
		if last != perSecond {
			t.Fatalf("%d per second, want %d", last, perSecond)
		}
		for range 150 {
			e.Feed(c)
		}
		if got := e.Rates(); got != (Rates{}) {
			t.Fatalf("silence: %+v", got)
		}
	})
}

func TestEstimatorReset(t *testing.T) {
	e := NewEstimator(Counters{Conns: 1000})
	e.Feed(Counters{Conns: 1000})
	if got := e.Rates(); got != (Rates{}) {
		t.Errorf("a past is not a rate: %+v", got)
	}
	e.Feed(Counters{Conns: 800}) // reset, then 800 new ones
	if got := e.Rates().CPS; got != 100 {
		t.Errorf("after a reset: %d per second, want 100", got)
	}
}

func TestMeter(t *testing.T) {
	addr := netip.MustParseAddr
	stats := func(conns ...uint64) Stats {
		s := Stats{Services: []ServiceStats{{Name: "web", Counters: Counters{Conns: conns[0]}}}}
		for i, n := range conns[1:] {
			s.Services[0].Reals = append(s.Services[0].Reals, RealStats{Addr: addr("10.0.0.1"), Port: uint16(i), Counters: Counters{Conns: n}})
		}
		return s
	}
	rates := func(cps ...uint64) []ServiceRates {
		s := []ServiceRates{{Name: "web", Rates: Rates{CPS: cps[0]}}}
		for i, n := range cps[1:] {
			s[0].Reals = append(s[0].Reals, RealRates{Addr: addr("10.0.0.1"), Port: uint16(i), Rates: Rates{CPS: n}})
		}
		return s
	}
	var m Meter
	if got := m.Rates(); got != nil {
		t.Errorf("never fed: %+v", got)
	}
	for _, step := range []struct {
		feed Stats
		want []ServiceRates
	}{
		{stats(800, 800), rates(0, 0)},             // a past
		{stats(1600, 1600), rates(100, 100)},       // 800 in two seconds, a quarter of it
		{stats(1600, 1600, 80), rates(75, 75, 10)}, // a new real
		{stats(1600), rates(56)},                   // reals gone
		{stats(1600, 80), rates(42, 10)},           // and back, as a new one
		{Stats{}, nil},
	} {
		m.Feed(step.feed)
		if diff := cmp.Diff(step.want, m.Rates(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("fed %+v (-want +got):\n%s", step.feed, diff)
		}
	}
}
