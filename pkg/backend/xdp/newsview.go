package xdp

import (
	"math/bits"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
)

// peerViews are those of the tables of flows and of templates, of IPv4 and of IPv6.
type peerViews struct {
	flows, templates [2]peerView
	sum              uint64 // see [readNotesAhead]
}

// peerView is what peers know, and have told, of each set of a table.
type peerView []knownSet

// knownSet is what peers know, and have told, of the places of a set. All of it lies
// in one line of the cache.
type knownSet struct {
	word   [bpf.Ways]uint8  // nonce, state and proven of what they know; 0: nothing
	origin [bpf.Ways]uint8  // see [originOf]
	tick   [bpf.Ways]uint16 // of a flow its time stamp then, of a template its end
}

// viewsOfPeers returns the views; the first call makes them.
func (b *Backend) viewsOfPeers() *peerViews {
	if b.views == nil {
		b.views = &peerViews{}
		flows, templates := b.flowTables(), b.templateTables()
		for i := range flows {
			b.views.flows[i], b.views.templates[i] = newPeerView(flows[i].sets()), newPeerView(templates[i].sets())
		}
	}
	return b.views
}

// newPeerView is in huge pages where the kernel has them: sets are visited in no order,
// and with small pages nearly every visit of a large table is a TLB miss.
func newPeerView(sets int) peerView {
	view := make(peerView, sets)
	if pages := pagesOf(view); len(pages) > 0 {
		_ = unix.Madvise(pages, unix.MADV_HUGEPAGE) // small pages do as well
	}
	return view
}

// pagesOf are the whole pages that a view lies in.
func pagesOf(view peerView) []byte {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(view))), len(view)*int(unsafe.Sizeof(knownSet{})))
	size := uintptr(unix.Getpagesize())
	before := -uintptr(unsafe.Pointer(unsafe.SliceData(bytes))) & (size - 1)
	if uintptr(len(bytes)) <= before {
		return nil
	}
	bytes = bytes[before:]
	return bytes[:uintptr(len(bytes))&^(size-1)]
}

func (p *peerViews) of(isTemplate bool, t table) peerView {
	if isTemplate {
		return p.templates[familyOf(t)]
	}
	return p.flows[familyOf(t)]
}

// forget makes peers know nothing any more; what peers have told stays. Sets that were
// never noted are not written: the kernel has given them no memory yet.
func (p *peerViews) forget() {
	for _, view := range slices.Concat(p.flows[:], p.templates[:]) {
		for i := range view {
			if known := &view[i]; known.word != [bpf.Ways]uint8{} {
				known.word, known.tick = [bpf.Ways]uint8{}, [bpf.Ways]uint16{}
			}
		}
	}
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

// note notes what peers know of an entry.
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
		at := f.next
		if f.next++; f.next == len(f.bits) {
			f.next = 0
		}
		word := f.bits[at]
		if word == 0 {
			continue
		}
		if isEnough() {
			f.next = at
			return
		}
		f.bits[at] = 0
		for ; word != 0; word &= word - 1 {
			visit(at*64 + bits.TrailingZeros64(word))
		}
	}
}
