package xdp

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// span is a run of ring lines.
type span struct{ at, n uint32 }

// arena hands out ring lines, first fit. Freed neighbours grow together.
type arena struct{ free []span }

var errNoRingSpace = fmt.Errorf("no space for its ring (the rings of all services have %d places; an mh service takes %d whatever its weights, a wrr service as many as its weights add up to)", bpf.MostRingLines*bpf.RingLineSlots, sched.MHTableSize)

func (a *arena) init(lines int) { a.free = []span{{0, uint32(lines)}} }

func (a *arena) take(n uint32) (span, error) {
	for i, f := range a.free {
		if f.n < n {
			continue
		}
		if f.n == n {
			a.free = slices.Delete(a.free, i, i+1)
		} else {
			a.free[i] = span{f.at + n, f.n - n}
		}
		return span{f.at, n}, nil
	}
	return span{}, errNoRingSpace
}

func (a *arena) give(s span) {
	if s.n == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(a.free, s.at, func(f span, at uint32) int { return int(int64(f.at) - int64(at)) })
	a.free = slices.Insert(a.free, i, s)
	if i+1 < len(a.free) && a.free[i].at+a.free[i].n == a.free[i+1].at {
		a.free[i].n += a.free[i+1].n
		a.free = slices.Delete(a.free, i+1, i+2)
	}
	if i > 0 && a.free[i-1].at+a.free[i-1].n == a.free[i].at {
		a.free[i-1].n += a.free[i].n
		a.free = slices.Delete(a.free, i, i+1)
	}
}

// reserve takes a known span out, when a predecessor's rings are adopted.
func (a *arena) reserve(s span) {
	for i, f := range a.free {
		if f.at <= s.at && s.at+s.n <= f.at+f.n {
			rest := []span{{f.at, s.at - f.at}, {s.at + s.n, f.at + f.n - s.at - s.n}}
			rest = slices.DeleteFunc(rest, func(r span) bool { return r.n == 0 })
			a.free = slices.Replace(a.free, i, i+1, rest...)
			return
		}
	}
}

// slots hands out indices of reals. Low ones first, so that walks are short.
type slots struct {
	free []uint32 // given back, any order
	next uint32   // none from here on was ever used
	max  uint32
}

var errNoSlots = errors.New("too many real servers")

func (s *slots) init(n int) { s.max = uint32(n) }

// grow makes n slots of what there was.
func (s *slots) grow(n int) { s.max = uint32(n) }

func (s *slots) take() (uint32, error) {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot, nil
	}
	if s.next == s.max {
		return 0, errNoSlots
	}
	s.next++
	return s.next - 1, nil
}

func (s *slots) give(slot uint32) { s.free = append(s.free, slot) }

// endpoint is what a VIP number stands for.
type endpoint struct {
	vip   netip.Addr
	proto lb.Protocol
}

// numbers gives every VIP and protocol a number for flow keys. A number is
// not given to another endpoint while a flow of its old one lives.
type numbers struct {
	of   map[endpoint]uint16
	who  map[uint16]endpoint
	idle map[uint16]int // passes of the sweeper in a row that saw no use of it
	next uint16
	free []uint16
}

var errNoNumbers = fmt.Errorf("too many VIPs (at most %d addresses and protocols)", bpf.VIPNumbers-1)

func (n *numbers) init() {
	n.of, n.who, n.idle, n.next = map[endpoint]uint16{}, map[uint16]endpoint{}, map[uint16]int{}, 1
}

func (n *numbers) get(e endpoint) (uint16, error) {
	if v, ok := n.of[e]; ok {
		delete(n.idle, v)
		return v, nil
	}
	var v uint16
	switch {
	case len(n.free) > 0:
		v = n.free[len(n.free)-1]
		n.free = n.free[:len(n.free)-1]
	case n.next == bpf.VIPNumbers:
		return 0, errNoNumbers
	default:
		v = n.next
		n.next++
	}
	n.of[e], n.who[v] = v, e
	return v, nil
}

// adopt notes a number that a predecessor gave out, unless it, or another number
// of the endpoint, is known already.
func (n *numbers) adopt(v uint16, e endpoint) {
	if _, isGiven := n.who[v]; isGiven || v == 0 {
		return
	}
	if _, hasOne := n.of[e]; hasOne {
		return
	}
	n.of[e], n.who[v] = v, e
	n.next = max(n.next, v+1)
}

// freeUnused gives out again, the lowest first, what a predecessor had and nothing
// names any more.
func (n *numbers) freeUnused() {
	for v := n.next - 1; v > 0; v-- {
		if _, isGiven := n.who[v]; !isGiven {
			n.free = append(n.free, v)
		}
	}
}

func (n *numbers) drop(v uint16) {
	delete(n.of, n.who[v])
	delete(n.who, v)
	delete(n.idle, v)
	n.free = append(n.free, v)
}

// freeNumbers frees those of VIPs that nothing refers to any more, at the end of a
// pass of the sweeper.
func (b *Backend) freeNumbers() {
	used := map[endpoint]bool{}
	for _, s := range b.state.Services {
		for _, l := range s.Listeners {
			used[endpoint{l.Addr, l.Proto}] = true
		}
	}
	for vip := range bareVIPs(b.state) {
		used[endpoint{vip, lb.TCP}] = true
	}
	for _, n := range slices.Sorted(maps.Keys(b.numbers.who)) { // what is given out next is no matter of chance
		e := b.numbers.who[n]
		if _, live := b.sweep.perVIP[n]; live || used[e] || !b.applied {
			delete(b.numbers.idle, n)
			continue
		}
		if b.numbers.idle[n]++; b.numbers.idle[n] == idlePasses {
			b.numbers.drop(n)
		}
	}
}
