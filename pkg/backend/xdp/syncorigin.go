package xdp

import (
	"github.com/lvx-lb/lvx/bpf"
)

// origins marks the places whose entries peers have told of, for the list of
// connections. The mark is of an entry, not of its place: whoever has the place
// after it is not marked. It is lost with the daemon.
type origins struct{ flows, templates [2][]uint8 } // of IPv4 and of IPv6

// The lowest bits of a mark.
const (
	originTold     = 1
	originUnsigned = 2 // by somebody who has not proven who that is
)

// golden is the multiplier of Fibonacci hashing.
const golden = 0x9e3779b97f4a7c15

// originOf is the mark of an entry: never 0.
func originOf(key, value uint64, isUnsigned bool) uint8 {
	mark := uint8(((key^uint64(bpf.FlowValue(value).Nonce()))*golden)>>56)&^originUnsigned | originTold
	if isUnsigned {
		mark |= originUnsigned
	}
	return mark
}

// markOrigin notes that a peer told of the entry at a place.
func (b *Backend) markOrigin(isTemplate bool, e entry, value uint64, isUnsigned bool) {
	if b.origins == nil {
		b.origins = newOrigins(b.flowTables(), b.templateTables())
	}
	b.origins.of(isTemplate, e.table)[e.place()] = originOf(e.key, value, isUnsigned)
}

func newOrigins(flows, templates [2]table) *origins {
	o := &origins{}
	for i := range flows {
		o.flows[i], o.templates[i] = make([]uint8, bpf.Ways*flows[i].sets()), make([]uint8, bpf.Ways*templates[i].sets())
	}
	return o
}

func (o *origins) of(isTemplate bool, t table) []uint8 {
	if isTemplate {
		return o.templates[familyOf(t)]
	}
	return o.flows[familyOf(t)]
}

// isSynced reports whether a peer told of an entry.
func (b *Backend) isSynced(isTemplate bool, e entry, value uint64) bool {
	isTold, _ := b.originAt(isTemplate, e, value)
	return isTold
}

// originAt reports whether a peer told of an entry, and whether that peer has not
// proven who it is.
func (b *Backend) originAt(isTemplate bool, e entry, value uint64) (isTold, isUnsigned bool) {
	if b.origins == nil {
		return false, false
	}
	mark := b.origins.of(isTemplate, e.table)[e.place()]
	isUnsigned = mark&originUnsigned != 0
	return mark == originOf(e.key, value, isUnsigned), isUnsigned
}
