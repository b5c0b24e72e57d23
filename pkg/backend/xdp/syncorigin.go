package xdp

import (
	"github.com/lvx-lb/lvx/bpf"
)

// origins marks the places whose entries peers have told of, for the list of
// connections. The mark is of an entry, not of its place: whoever has the place
// after it is not marked. It is lost with the daemon.
type origins struct{ flows, templates []uint8 }

// originOf is the mark of an entry: never 0.
func originOf(key, value uint64) uint8 {
	const golden = 0x9e3779b97f4a7c15 // Fibonacci hashing
	return uint8(((key^uint64(bpf.FlowValue(value).Nonce()))*golden)>>56) | 1
}

// markOrigin notes that a peer told of the entry at a place. Places are counted
// through both tables apart, four to a set.
func (b *Backend) markOrigin(a *bpf.Absorption, place int, value uint64) {
	if b.origins == nil {
		b.origins = &origins{make([]uint8, len(b.dp.Flows)/2), make([]uint8, len(b.dp.Templates)/2)}
	}
	b.origins.of(a.Kind == bpf.AbsorbTemplate)[place] = originOf(a.Key, value)
}

func (o *origins) of(isTemplate bool) []uint8 {
	if isTemplate {
		return o.templates
	}
	return o.flows
}

// isSynced reports whether a peer told of an entry.
func (b *Backend) isSynced(isTemplate bool, place int, key, value uint64) bool {
	return b.origins != nil && b.origins.of(isTemplate)[place] == originOf(key, value)
}
