package xdp

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// A peer may tell of a real or a service before this director's file has it, or
// before a real is up here: such entries wait for that.
const (
	penSize       = 1 << 14 // entries
	penTime       = time.Minute
	maxTurnedAway = 1 << 8 // reals whose entries had no room
)

// waiting is an entry of a real or service that is not known here.
type waiting struct {
	entry connsync.Entry
	until time.Time
}

// pen holds entries that wait. They are tried again once a state was applied
// after they came. Of what it has no room for it keeps one entry of each real:
// once that is known, peers have to tell of it again.
type pen struct {
	entries    []waiting
	turnedAway map[turnedAway]connsync.Entry
	missed     uint64
	afterApply uint64 // the Apply after which they were tried last
}

// turnedAway is the real of a service whose entries had no room.
type turnedAway struct {
	real     netip.AddrPort
	virtual  netip.AddrPort
	protocol uint8
	mark     uint32
}

// take lets an entry wait, and reports whether there was room.
func (p *pen) take(e connsync.Entry, now time.Time) bool {
	if len(p.entries) < penSize {
		p.entries = append(p.entries, waiting{e, now.Add(penTime)})
		return true
	}
	p.turnAway(e)
	return false
}

func (p *pen) turnAway(e connsync.Entry) {
	if p.turnedAway == nil {
		p.turnedAway = map[turnedAway]connsync.Entry{}
	}
	if len(p.turnedAway) < maxTurnedAway {
		p.turnedAway[turnedAway{e.Real, e.Virtual, uint8(e.Protocol), e.Mark}] = e
	}
}

// releasePen adds entries that wait, if an edit may have brought what they wait
// for, and drops those that have waited too long.
func (b *Backend) releasePen(entries []connsync.Entry) []connsync.Entry {
	p := &b.pen
	if p.afterApply == b.applies || len(p.entries)+len(p.turnedAway) == 0 {
		return entries
	}
	p.afterApply = b.applies
	waited, now := p.entries, time.Now()
	p.entries = nil
	var released []connsync.Entry
	for _, w := range waited {
		_, isKnown := b.absorption(w.entry, 0)
		switch {
		case now.After(w.until):
			p.turnAway(w.entry)
		case isKnown:
			released = append(released, w.entry)
		default:
			p.entries = append(p.entries, w)
		}
	}
	b.noteMissed()
	return slices.Concat(released, entries) // what has just come is newer, so it is put in behind
}

// noteMissed looks whether a real is known by now whose entries had no room.
func (b *Backend) noteMissed() {
	for key, e := range b.pen.turnedAway {
		if _, isKnown := b.absorption(e, 0); isKnown {
			delete(b.pen.turnedAway, key)
			b.pen.missed++
		}
	}
}

// Missed implements [connsync.Table].
func (b *Backend) Missed() uint64 {
	_, _ = b.Absorb(nil) // tries those that wait; an error comes again with the next entries
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pen.missed
}
