package oracle

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// scheduler is what a service's scheduler remembers: the kernel's list of
// destinations, head first, and where it stands in it.
type scheduler struct {
	name   lb.Scheduler
	flags  lb.SchedFlags
	byMark bool
	isIPv6 bool
	port   uint16 // of the listener, which a real without one stands behind
	list   []entry
	head   *real // rr: picked last, nil at the list's head
	wrr    struct {
		at, cw, mw, di int // at: index of the one picked last, -1 at the head
	}
	maglev []*real // mh: lookup table
}

type entry struct {
	*real
	weight, last int // last: the last weight that was not 0
}

func same(a, b []entry) bool {
	return slices.EqualFunc(a, b, func(x, y entry) bool { return x.real == y.real && x.weight == y.weight })
}

// update takes an edit. Several at once count as one.
func (s *scheduler) update(conf lb.Service, reals []*real) {
	before := s.list
	s.list = nil
	for _, r := range reals {
		e := entry{r, int(r.conf.Weight), int(r.conf.Weight)}
		if i := slices.IndexFunc(before, func(o entry) bool { return o.real == r }); e.last == 0 && i >= 0 {
			e.last = before[i].last
		}
		s.list = append(s.list, e)
	}
	fresh, changed := s.name == "", s.name != conf.Scheduler
	s.name, s.flags, s.byMark, s.isIPv6 = conf.Scheduler, conf.Flags, conf.ByMark(), conf.IsIPv6()
	if len(conf.Listeners) > 0 {
		s.port = conf.Listeners[0].First
	}
	switch s.name {
	case lb.RR:
		s.moveRR(changed, before)
	case lb.WRR:
		switch {
		case fresh:
			s.addWRR()
		case changed:
			s.initWRR()
			s.wrr.cw = s.wrr.mw
		case !same(before, s.list):
			s.editWRR()
		}
	case lb.MH:
		s.maglev = s.populate()
	}
}

// moveRR: a pointer to a destination that leaves goes back to the one before
// it (ip_vs_rr_del_dest).
func (s *scheduler) moveRR(changed bool, before []entry) {
	if changed {
		s.head = nil
	}
	for i := slices.IndexFunc(before, s.is(s.head)); i >= 0 && !slices.ContainsFunc(s.list, s.is(s.head)); i-- {
		s.head = nil
		if i > 0 {
			s.head = before[i-1].real
		}
	}
}

func (s *scheduler) is(r *real) func(entry) bool { return func(e entry) bool { return e.real == r } }

// ip_vs_rr_schedule: the next usable one behind the pointer, round the head.
func (s *scheduler) pickRR() *real {
	at := slices.IndexFunc(s.list, s.is(s.head))
	for i := range s.list {
		e := s.list[(at+1+i)%len(s.list)]
		if e.weight > 0 {
			s.head = e.real
			return e.real
		}
	}
	return nil
}

// initWRR: gcd, maximum weight, the head (ip_vs_wrr_init_svc).
func (s *scheduler) initWRR() {
	gcd, most := 0, 0
	for _, e := range s.list {
		for a := e.weight; a != 0; {
			gcd, a = a, gcd%a
		}
		most = max(most, e.weight)
	}
	s.wrr.at, s.wrr.di = -1, max(gcd, 1)
	s.wrr.mw = most - (s.wrr.di - 1)
}

// addWRR: the destinations of a new service come one by one.
func (s *scheduler) addWRR() {
	all := s.list
	for i := len(all) - 1; i >= 0; i-- {
		s.list = all[i:]
		s.editWRR()
	}
}

// editWRR is ip_vs_wrr_dest_changed. Of reals that get their weights at once
// the first one, alone, would have made cw 1: mw is its weight less gcd-1.
func (s *scheduler) editWRR() {
	w := &s.wrr
	s.initWRR()
	switch {
	case w.cw > w.mw:
		w.cw = w.mw
	case w.cw == 0 && w.mw > 0:
		w.cw = 1
	case w.di > 1:
		w.cw = w.cw/w.di*w.di + 1
	}
}

// ip_vs_wrr_schedule: pass after pass over the list; a pass takes those with
// at least the weight cw.
func (s *scheduler) pickWRR() *real {
	w := &s.wrr
	for w.mw > 0 {
		for w.at++; w.at < len(s.list); w.at++ {
			if e := s.list[w.at]; e.weight > 0 && e.weight >= w.cw {
				return e.real
			}
		}
		w.at = -1
		if w.cw -= w.di; w.cw <= 0 {
			w.cw = w.mw
		}
	}
	return nil
}

// number is an address as the hashing schedulers see it: of IPv6 the exclusive
// or of its words.
func number(a netip.Addr) uint32 {
	if a.Is6() {
		b, x := a.As16(), uint32(0)
		for i := 0; i < 16; i += 4 {
			x ^= binary.BigEndian.Uint32(b[i:])
		}
		return x
	}
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// bucket is hash_32(x, 8).
func bucket(x uint32) uint32 { return x * 0x61C88647 >> 24 }

// pickSH is ip_vs_sh_get and ip_vs_sh_get_fallback over ip_vs_sh_reassign.
func (s *scheduler) pickSH(src netip.AddrPort) *real {
	var table [256]*real
	i, taken := 0, 0
	for b := range table {
		if len(s.list) == 0 {
			return nil
		}
		table[b] = s.list[i].real
		if taken++; taken >= s.list[i].weight {
			i, taken = (i+1)%len(s.list), 0
		}
	}
	x := number(src.Addr())
	if s.flags&lb.SHPort != 0 {
		x += uint32(src.Port())
	}
	own := bucket(x)
	if r := table[own]; r.usable() || s.flags&lb.SHFallback == 0 {
		return ifUsable(r)
	}
	for offset := range uint32(256) {
		// The hash key adds the offset, which counts from the own bucket.
		if r := table[(own+(own+offset)%256)%256]; r.usable() {
			return r
		}
	}
	return nil
}

// pickDH is ip_vs_dh_get over ip_vs_dh_reassign.
func (s *scheduler) pickDH(dst netip.Addr) *real {
	if len(s.list) == 0 {
		return nil
	}
	return ifUsable(s.list[int(bucket(number(dst)))%len(s.list)].real)
}

func ifUsable(r *real) *real {
	if r != nil && r.usable() {
		return r
	}
	return nil
}

const (
	tableSize = 4093
	firstKey  = 2654435761
	secondKey = 2654446892
)

// populate is ip_vs_mh_populate: each destination in turn takes the next
// free places of its permutation, as many as its weight.
func (s *scheduler) populate() []*real {
	gcd, most := 0, 0
	for _, e := range s.list {
		for a := e.last; a != 0; {
			gcd, a = a, gcd%a
		}
		most = max(most, e.last)
	}
	table := make([]*real, tableSize)
	if gcd == 0 {
		return table
	}
	shift := max(0, bits.Len(uint(most/gcd))-6)
	next := make([]uint32, len(s.list))
	for i, e := range s.list {
		next[i] = siphash(s.identity(e), firstKey) % tableSize
	}
	for filled := 0; ; {
		for i, e := range s.list {
			skip := siphash(s.identity(e), secondKey)%(tableSize-1) + 1
			turns := e.last / gcd >> shift
			if e.last > 0 {
				turns = max(turns, 1)
			}
			for range turns {
				for table[next[i]] != nil {
					next[i] = (next[i] + skip) % tableSize
				}
				table[next[i]] = e.real
				if filled++; filled == tableSize {
					return table
				}
			}
		}
	}
}

// identity is what mh hashes of a real: its address and the port that the
// kernel's destination has.
func (s *scheduler) identity(e entry) uint32 {
	port := e.conf.Port
	if port == 0 && !s.byMark {
		port = s.port
	}
	if e.conf.Addr.Is6() && !s.isIPv6 { // taken for an address of the service's family
		b := e.conf.Addr.As16()
		return binary.BigEndian.Uint32(b[:4]) + uint32(port)
	}
	return number(e.conf.Addr) + uint32(port)
}

// pickMH is ip_vs_mh_get and ip_vs_mh_get_fallback.
func (s *scheduler) pickMH(src netip.AddrPort) *real {
	x := number(src.Addr())
	if s.flags&lb.MHPort != 0 {
		x += uint32(src.Port())
	}
	own := siphash(x, firstKey) % tableSize
	r := s.maglev[own]
	if r == nil || r.usable() || s.flags&lb.MHFallback == 0 {
		return ifUsable(r)
	}
	for offset := range uint32(tableSize) {
		if r := s.maglev[siphash(x+(own+offset)%tableSize, firstKey)%tableSize]; r.usable() {
			return r
		}
	}
	return nil
}

// pickLeast: the first of the cheapest (ip_vs_lc.c, ip_vs_wlc.c, ip_vs_sed.c,
// ip_vs_nq.c), or the heaviest (ip_vs_fo.c, ip_vs_ovf.c).
func (s *scheduler) pickLeast(load func(*real) (act, inact uint64)) *real {
	var best *real
	var bestCost, bestWeight uint64
	for _, e := range s.list {
		if !e.usable() {
			continue
		}
		act, inact := load(e.real)
		cost, weight := act*256+inact, uint64(e.weight)
		switch s.name {
		case lb.LC:
			weight = 1
		case lb.SED, lb.NQ:
			cost = act + 1
		}
		if s.name == lb.NQ && act == 0 {
			return e.real
		}
		if s.name == lb.FO || s.name == lb.OVF {
			if isFull := s.name == lb.OVF && act > weight; !isFull && weight > bestWeight {
				best, bestWeight = e.real, weight
			}
			continue
		}
		if best == nil || bestCost*weight > cost*bestWeight {
			best, bestCost, bestWeight = e.real, cost, weight
		}
	}
	return best
}

// idle reports whether no real of the list may get a connection.
func (s *scheduler) idle() bool {
	return !slices.ContainsFunc(s.list, func(e entry) bool { return e.weight > 0 })
}

// pick gives a new connection its real, nil if there is none for it.
func (d *Director) pick(v *service, k tuple) *real {
	s := v.sched
	if s.idle() {
		return v.sorry()
	}
	switch s.name {
	case lb.RR:
		return s.pickRR()
	case lb.WRR:
		return s.pickWRR()
	case lb.SH:
		return s.pickSH(k.client)
	case lb.DH:
		return s.pickDH(k.vip.Addr())
	case lb.MH:
		return s.pickMH(k.client)
	}
	return s.pickLeast(d.load)
}

// siphash is hsiphash_1u32 on a 64-bit kernel: SipHash with one round for the
// message and three at the end, under a key of two equal halves, cut to 32
// bits.
func siphash(x uint32, key uint64) uint32 {
	v := [4]uint64{0x736f6d6570736575 ^ key, 0x646f72616e646f6d ^ key, 0x6c7967656e657261 ^ key, 0x7465646279746573 ^ key}
	rounds := func(n int) {
		for range n {
			v[0] += v[1]
			v[2] += v[3]
			v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
			v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
			v[0] = bits.RotateLeft64(v[0], 32)
			v[2] += v[1]
			v[0] += v[3]
			v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
			v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
			v[2] = bits.RotateLeft64(v[2], 32)
		}
	}
	message := uint64(x) | 4<<56 // the length in the last byte
	v[3] ^= message
	rounds(1)
	v[0] ^= message
	v[2] ^= 0xff
	rounds(3)
	return uint32(v[0] ^ v[1] ^ v[2] ^ v[3])
}
