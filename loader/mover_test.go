package loader

import (
	"math/rand/v2"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
)

// A table that holds as many connections as it is stated for is moved to one
// of the same size: each finds a place.
func TestMoverKeepsTheStatedCapacity(t *testing.T) {
	const capacity = 1 << 18
	flow := uint64(bpf.FlowValueOf(80, 1, 1, bpf.StateEstablished, true, 1))
	random := rand.New(rand.NewPCG(1, 2))
	lost := 0
	for range 4 {
		m := &mover{
			into:        make([]uint64, wordsOfSet*sets(capacity)),
			hashOf:      func(key, _ uint64) (uint64, bool) { return key, true },
			isSame:      func(uint64, uint64) bool { return true },
			isLive:      func(v uint64) bool { return bpf.FlowValue(v).IsLive() },
			isWorthLess: func(uint64, uint64) bool { return false },
			busy:        func(v uint64) uint64 { return uint64(bpf.FlowValue(v).Claimed()) },
			withNonce:   func(v, _ uint64) uint64 { return v },
		}
		for range capacity {
			m.place(random.Uint64(), flow)
		}
		lost += m.lost
	}
	if lost > 0 {
		t.Errorf("%d of %d connections have found no place", lost, 4*capacity)
	}
}
