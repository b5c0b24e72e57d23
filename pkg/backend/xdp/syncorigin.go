package xdp

import (
	"github.com/lvx-lb/lvx/bpf"
)

// The lowest bits of a mark.
const (
	originTold     = 1
	originUnsigned = 2 // by somebody who has not proven who that is
)

// golden is the multiplier of Fibonacci hashing.
const golden = 0x9e3779b97f4a7c15

// originOf is the mark that a peer told of an entry, for the list of connections:
// never 0. The mark is of the entry, not of its place: whoever has the place later is
// not marked. Marks are lost with the daemon.
func originOf(key, value uint64, isUnsigned bool) uint8 {
	mark := uint8(((key^uint64(bpf.FlowValue(value).Nonce()))*golden)>>56)&^originUnsigned | originTold
	if isUnsigned {
		mark |= originUnsigned
	}
	return mark
}

// isSynced reports whether a peer told of an entry.
func (b *Backend) isSynced(isTemplate bool, e entry, value uint64) bool {
	isTold, _ := b.originAt(isTemplate, e, value)
	return isTold
}

// originAt reports whether a peer told of an entry, and whether that peer has not
// proven who it is.
func (b *Backend) originAt(isTemplate bool, e entry, value uint64) (isTold, isUnsigned bool) {
	if b.views == nil {
		return false, false
	}
	mark := b.views.of(isTemplate, e.table)[e.set].origin[e.way]
	isUnsigned = mark&originUnsigned != 0
	isTold = mark == originOf(e.key, value, isUnsigned)
	return isTold, isTold && isUnsigned
}
