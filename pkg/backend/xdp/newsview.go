package xdp

import (
	"math/bits"

	"github.com/lvx-lb/lvx/bpf"
)

// peerView is what peers know of each set of a table.
type peerView []knownSet

// knownSet is what peers know of the places of a set.
type knownSet struct {
	word [bpf.Ways]uint8  // nonce, state and proven of what they know; 0: nothing
	tick [bpf.Ways]uint16 // of a flow its time stamp then, of a template its end
}

// wordOf are the bits of a value whose change is news. They are never 0 in a
// live entry.
func wordOf(v uint64) uint8 { return uint8(v >> 56) }

// isNews reports whether peers know an entry otherwise, or know it from so many
// ticks ago that it must be told again (see [refreshOf]).
func (known *knownSet) isNews(way int, v uint64, tick uint16, refresh uint32) bool {
	return known.word[way] != wordOf(v) || uint32(tick-known.tick[way]) >= refresh
}

// refreshOf is after how many ticks an entry with such a life is told of again.
func refreshOf(life uint32) uint32 { return max(life/refreshShare, 1) }

// isKnown reports whether peers know the entry that has a place, however it has
// changed since.
func (known *knownSet) isKnown(way int, v uint64) bool {
	word := known.word[way]
	return word != 0 && (word^wordOf(v))&0xf == 0 // the nonce
}

func (known *knownSet) note(way int, v uint64, tick uint16) {
	known.word[way], known.tick[way] = wordOf(v), tick
}

// foundSets are the sets of a table in which the sweeper has found news: a bit
// each, so that their memory is bounded.
type foundSets struct {
	bits []uint64
	next int // word to go on with
}

func newFoundSets(sets int) foundSets { return foundSets{bits: make([]uint64, (sets+63)/64)} }

func (f *foundSets) add(set int) { f.bits[set/64] |= 1 << (set % 64) }

// take visits the sets, each once, until it is enough.
func (f *foundSets) take(isEnough func() bool, visit func(set int)) {
	for range f.bits {
		if isEnough() {
			return
		}
		word := f.bits[f.next]
		f.bits[f.next] = 0
		for ; word != 0; word &= word - 1 {
			visit(f.next*64 + bits.TrailingZeros64(word))
		}
		f.next = (f.next + 1) % len(f.bits)
	}
}
