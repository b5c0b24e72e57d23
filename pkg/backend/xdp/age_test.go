package xdp

import (
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// The clock's lower 16 bits: a flow that was seen after the question what time
// it is is young, not as old as the clock can say.
func TestAge(t *testing.T) {
	for _, c := range []struct {
		now  uint64
		seen uint16
		want uint16
	}{
		{1000, 1000, 0},
		{1000, 900, 100},
		{1000, 1001, 0}, // seen after now was asked for
		{1000, 1000 + bpf.MostAhead - 1, 0},
		{1<<16 + 5, 0xfffb, 10}, // round the clock
		{1<<16 + 5, 7, 0},
		{0xffff, 2, 0}, // and the other way round
		{40000, 1000, 39000},
	} {
		if got := age(bpf.FlowValue(c.seen), c.now); got != c.want {
			t.Errorf("seen at %d, now %d: age %d, want %d", c.seen, c.now, got, c.want)
		}
	}
}

// A pass that was put to sleep after it had looked at the clock ends no
// connection that packets went on with meanwhile.
func TestSweepOfAFlowSeenLater(t *testing.T) {
	h := newStill(t, 4096, 64)
	h.apply(lb.State{Services: []lb.Service{webService(1)}})
	if to := h.tcp("S"); to != realN(1) {
		t.Fatalf("a connection to %s", to)
	}
	h.sweep.perReal, h.sweep.perVIP = map[uint32]struct{}{}, map[uint16]struct{}{}
	before := h.now()
	h.dp.Settings.Clock += 2
	if to := h.tcp("A"); to != realN(1) {
		t.Fatalf("the connection goes on to %s", to)
	}
	for set := range h.flowTables()[0].sets() {
		h.sweepSet(h.flowTables()[0], set, before)
	}
	if to := h.tcp("A"); to != realN(1) {
		t.Errorf("after the pass the connection goes to %s", to)
	}
}
