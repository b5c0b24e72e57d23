package xdp

import (
	"github.com/lvx-lb/lvx/bpf"
)

// origins marks the places whose entries peers have told of, for the list of
// connections. The mark is of an entry, not of its place: whoever has the place
// after it is not marked. It is lost with the daemon.
type origins struct{ flows, templates []uint8 }

// The lowest bits of a mark.
const (
	originTold     = 1
	originUnsigned = 2 // by somebody who has not proven who that is
)

// originOf is the mark of an entry: never 0.
func originOf(key, value uint64, isUnsigned bool) uint8 {
	const golden = 0x9e3779b97f4a7c15 // Fibonacci hashing
	mark := uint8(((key^uint64(bpf.FlowValue(value).Nonce()))*golden)>>56)&^originUnsigned | originTold
	if isUnsigned {
		mark |= originUnsigned
	}
	return mark
}

// markOrigin notes that a peer told of the entry at a place. Places are counted
// through both tables apart, four to a set.
func (b *Backend) markOrigin(a *bpf.Absorption, place int, value uint64, isUnsigned bool) {
	if b.origins == nil {
		b.origins = &origins{make([]uint8, len(b.dp.Flows)/2), make([]uint8, len(b.dp.Templates)/2)}
	}
	b.origins.of(a.Kind == bpf.AbsorbTemplate)[place] = originOf(a.Key, value, isUnsigned)
}

func (o *origins) of(isTemplate bool) []uint8 {
	if isTemplate {
		return o.templates
	}
	return o.flows
}

// isSynced reports whether a peer told of an entry.
func (b *Backend) isSynced(isTemplate bool, place int, key, value uint64) bool {
	isTold, _ := b.originAt(isTemplate, place, key, value)
	return isTold
}

// originAt reports whether a peer told of an entry, and whether that peer has not
// proven who it is.
func (b *Backend) originAt(isTemplate bool, place int, key, value uint64) (isTold, isUnsigned bool) {
	if b.origins == nil {
		return false, false
	}
	mark := b.origins.of(isTemplate)[place]
	isUnsigned = mark&originUnsigned != 0
	return mark == originOf(key, value, isUnsigned), isUnsigned
}
