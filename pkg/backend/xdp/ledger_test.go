package xdp

import (
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
)

// ledger knows the verdicts of the frames of one case. A frame costs a look at
// the verdict that is expected; that no other was counted beside is seen at the
// end of the case, for all its frames.
type ledger struct {
	rt   *rapid.T
	dp   *loader.Datapath
	base map[string]uint64 // what was counted before the case
	want map[string]uint64 // what was counted since
}

func newLedger(rt *rapid.T, dp *loader.Datapath) *ledger {
	l := &ledger{rt: rt, dp: dp, want: map[string]uint64{}}
	l.base = l.tallies()
	return l
}

// verdictOf is the verdict of the last frame: the expected one, if that was
// counted.
func (l *ledger) verdictOf(expected string) string {
	if n := l.dp.CountOf(verdictIndex[expected]); n == l.base[expected]+l.want[expected]+1 {
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

var verdictIndex = func() map[string]bpf.Verdict {
	m := map[string]bpf.Verdict{}
	for v := range bpf.Verdicts {
		m[v.String()] = v
	}
	return m
}()

func (l *ledger) tallies() map[string]uint64 {
	m := map[string]uint64{}
	for name, i := range verdictIndex {
		m[name] = l.dp.CountOf(i)
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
