package xdp

import (
	"net/netip"
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
// once that is known, peers have to tell of it again. Entries whose sender has not
// proven who it is take half of the room at most.
type pen struct {
	entries    []waiting
	unsigned   int // of them
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
	p.expire(now)
	if len(p.entries) == penSize || e.IsUnsigned && p.unsigned == penSize/2 {
		p.turnAway(e)
		return false
	}
	p.put(waiting{e, now.Add(penTime)})
	return true
}

func (p *pen) put(w waiting) {
	p.entries = append(p.entries, w)
	if w.entry.IsUnsigned {
		p.unsigned++
	}
}

// expire drops those that have waited too long, which are the first.
func (p *pen) expire(now time.Time) {
	n := 0
	for ; n < len(p.entries) && now.After(p.entries[n].until); n++ {
		e := p.entries[n].entry
		if e.IsUnsigned {
			p.unsigned--
		}
		p.turnAway(e)
	}
	p.entries = p.entries[n:]
}

func (p *pen) turnAway(e connsync.Entry) {
	if e.IsUnsigned { // nobody can be asked to tell of it again
		return
	}
	if p.turnedAway == nil {
		p.turnedAway = map[turnedAway]connsync.Entry{}
	}
	if len(p.turnedAway) < maxTurnedAway {
		p.turnedAway[turnedAway{e.Real, e.Virtual, e.Protocol, e.Mark}] = e
	}
}

// release gives up the entries that are known by the latest Apply, oldest first, and
// drops those that have waited too long. It notes whether others are known that had
// no room.
func (p *pen) release(apply uint64, isKnown func(connsync.Entry) bool) (released []connsync.Entry) {
	if p.afterApply == apply || len(p.entries)+len(p.turnedAway) == 0 {
		return nil
	}
	p.afterApply = apply
	now := time.Now()
	p.expire(now)
	waited := p.entries
	p.entries, p.unsigned = nil, 0
	for _, w := range waited {
		if !isKnown(w.entry) {
			p.put(w)
			continue
		}
		w.entry.Idle += penTime - w.until.Sub(now) // nobody has told of a packet since
		released = append(released, w.entry)
	}
	for key, e := range p.turnedAway {
		if isKnown(e) {
			delete(p.turnedAway, key)
			p.missed++
		}
	}
	return released
}

// Missed implements [connsync.Table].
func (b *Backend) Missed() uint64 {
	_, _ = b.Absorb(new(connsync.Batch)) // tries those that wait; an error comes again with the next entries
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pen.missed
}
