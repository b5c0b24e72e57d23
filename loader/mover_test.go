package loader

import (
	"math/rand/v2"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
)

// A table that holds as many connections as it is stated for is moved to one
// of the same size: each finds a place.
func TestMoverKeepsTheStatedCapacity(t *testing.T) {
	for family, stride := range map[string]int{"IPv4": wordsOfSet, "IPv6": bpf.SetWords6} {
		t.Run(family, func(t *testing.T) {
			lost, total := 0, 0
			for range 4 {
				m := &mover{
					into:        make([]uint64, stride*int(sets(1<<18))),
					stride:      stride,
					isSame:      func(uint64, uint64) bool { return true },
					isLive:      func(v uint64) bool { return bpf.FlowValue(v).IsLive() },
					isWorthLess: func(uint64, uint64) bool { return false },
					busy:        func(v uint64) uint64 { return uint64(bpf.FlowValue(v).Claimed()) },
					withNonce:   func(v, _ uint64) uint64 { return v },
					hasTwins:    stride != wordsOfSet,
				}
				total += fill(m, 1<<18)
				lost += m.lost
			}
			if lost > 0 {
				t.Errorf("%d of %d connections have found no place", lost, total)
			}
		})
	}
}

// fill places n flows of random keys.
func fill(m *mover, n int) int {
	flow := uint64(bpf.FlowValueOf(80, 1, 1, bpf.StateEstablished, true, 1))
	random := rand.New(rand.NewPCG(1, 2))
	for range n {
		key := random.Uint64()
		m.place(moved{key: key, value: flow}, bpf.TwoSets(key, uint32(len(m.into)/m.stride)))
	}
	return n
}
