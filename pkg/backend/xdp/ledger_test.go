package xdp

import (
	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
)

// ledger knows the verdicts of the frames of one case. A frame costs a look at
// the verdict that is expected; that no other was counted beside is seen at the
// end of the case, for all its frames.
type ledger struct {
	rt   *rapid.T
	maps *ebpf.Map
	base map[string]uint64 // what was counted before the case
	want map[string]uint64 // what was counted since
}

func newLedger(rt *rapid.T, verdicts *ebpf.Map) *ledger {
	l := &ledger{rt: rt, maps: verdicts, want: map[string]uint64{}}
	l.base = l.tallies()
	return l
}

// verdictOf is the verdict of the last frame: the expected one, if that was
// counted.
func (l *ledger) verdictOf(expected string) string {
	n, err := tally(l.maps, uint32(verdictIndex[expected]))
	if err != nil {
		l.rt.Fatal(err)
	}
	if n == l.base[expected]+l.want[expected]+1 {
		l.want[expected]++
		return expected
	}
	for name, n := range l.tallies() {
		if n != l.base[name]+l.want[name] {
			l.want[name]++
			return name
		}
	}
	return "no verdict"
}

var verdictIndex = func() map[string]int {
	m := map[string]int{}
	for v := range bpf.Verdicts {
		m[v.String()] = int(v)
	}
	return m
}()

func (l *ledger) tallies() map[string]uint64 {
	m := map[string]uint64{}
	for name, i := range verdictIndex {
		n, err := tally(l.maps, uint32(i))
		if err != nil {
			l.rt.Fatal(err)
		}
		m[name] = n
	}
	return m
}

func (l *ledger) compareVerdicts() {
	for name, n := range l.tallies() {
		if n != l.base[name]+l.want[name] {
			l.rt.Fatalf("%s was counted %d times, want %d", name, n-l.base[name], l.want[name])
		}
	}
}
