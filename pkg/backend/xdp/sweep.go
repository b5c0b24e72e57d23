package xdp

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Timeouts that ipvsadm cannot set either (tcp_timeouts of
// ip_vs_proto_tcp.c).
const (
	synRecvTimeout  = 60 * time.Second
	timeWaitTimeout = 120 * time.Second
	closeTimeout    = 10 * time.Second

	// Flow ages are 16-bit ticks; half a round keeps old and young apart
	// for the sweeper.
	maxTicks = 0x7fff

	sweepStep   = time.Second
	sweepSteps  = 5 // a whole pass takes so many steps: expiry shows within that
	renewTicks  = 60
	renewMargin = 12 // a template with so few ticks left is renewed if it is in use

	// idlePasses without a flow of it free the slot of a real that is gone, or
	// the number of a VIP: the first pass may have been beyond the flow's place
	// when it was taken out, and in the second a packet may have been under way.
	idlePasses = 3
)

// sweeper walks the tables a piece at a time. The packet path does not need
// it to be right: it compares time stamps. The sweeper keeps the counts that
// people and lc read, renews templates, frees slots and numbers, and clears
// time stamps before their 16 bits come round.
type sweeper struct {
	next    int                 // set to go on with
	perReal map[uint32]struct{} // slots seen in this pass
	perVIP  map[uint16]struct{}
}

func (b *Backend) runSweeper(ctx context.Context) {
	tick := time.NewTicker(sweepStep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.sweepPart(len(b.dp.Flows)/8/sweepSteps + 1)
		}
	}
}

// Sweep walks the whole table once.
func (b *Backend) Sweep() { b.sweepPart(len(b.dp.Flows) / 8) }

func (b *Backend) sweepPart(sets int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sweep.perReal == nil {
		b.sweep.perReal, b.sweep.perVIP = map[uint32]struct{}{}, map[uint16]struct{}{}
	}
	now := b.now()
	end := min(b.sweep.next+sets, len(b.dp.Flows)/8)
	for set := b.sweep.next; set < end; set++ {
		if !emptySet(b.dp.Flows[set*8 : set*8+8]) {
			b.sweepSet(set*8, now)
		}
	}
	b.sweep.next = end
	if end == len(b.dp.Flows)/8 {
		if b.persistent {
			b.sweepTemplates(now)
		}
		b.finishPass()
	}
}

// emptySet reports whether no place of a set has a flow: of an idle director's,
// a million in five seconds.
func emptySet(set []uint64) bool {
	return value(load64(&set[4])|load64(&set[5])|load64(&set[6])|load64(&set[7])).state() == stateEmpty
}

func (b *Backend) sweepSet(at int, now uint64) {
	for w := range 4 {
		v := value(load64(&b.dp.Flows[at+4+w]))
		if v.state() == stateEmpty || v.state() == stateBusy {
			continue
		}
		if b.expired(v, now) {
			if cas64(&b.dp.Flows[at+4+w], uint64(v), v.ended()) && b.current(v) {
				b.load(v.real(), v.state(), -1)
			}
			continue
		}
		k := key(load64(&b.dp.Flows[at+w]))
		b.sweep.perReal[v.real()] = struct{}{}
		b.sweep.perVIP[k.vip()] = struct{}{}
		b.renew(k, v, now)
	}
}

// renew keeps the template of a live connection alive: the kernel re-arms a
// controlling entry by 60 s while one of its connections lives
// (ip_vs_conn_expire).
func (b *Backend) renew(k key, v value, now uint64) {
	if !b.current(v) {
		return
	}
	s := b.byIndex[b.dp.Reals[v.real()].Service%numServices]
	if s == nil || !s.conf.Persistence.Enabled() {
		return
	}
	p, t := b.findTemplate(s, k)
	if p == nil || t.left(now) < 0 || t.left(now) > renewMargin || t.real() != v.real() {
		return
	}
	until := template(uint32(now)+uint32(t.left(now))+ticks(renewTicks*time.Second)) & templateExpires
	cas64(p, uint64(t), uint64(t&^templateExpires|until|templateRenewed))
}

// findTemplate finds the client's live template of a service.
func (b *Backend) findTemplate(s *service, k key) (*uint64, template) {
	want := uint64(uint32(k)&s.entry.PersistMask) | uint64(s.cookie)<<32
	first, second := twoSets(templateHash(b.dp.Settings, want), uint32(len(b.dp.Templates)/8))
	for _, set := range []uint32{first, second} {
		for w := range uint32(4) {
			if load64(&b.dp.Templates[set*8+w]) != want {
				continue
			}
			p := &b.dp.Templates[set*8+4+w]
			if t := template(load64(p)); t.live() {
				return p, t
			}
		}
	}
	return nil, 0
}

func (b *Backend) sweepTemplates(now uint64) {
	for set := 0; set < len(b.dp.Templates); set += 8 {
		for w := range 4 {
			p := &b.dp.Templates[set+4+w]
			t := template(load64(p))
			if !t.live() {
				continue
			}
			if t.left(now) < 0 {
				cas64(p, uint64(t), uint64(t)&(15<<48))
				continue
			}
			b.sweep.perReal[t.real()] = struct{}{}
		}
	}
}

// finishPass frees what no flow refers to any more.
func (b *Backend) finishPass() {
	sw := &b.sweep
	for name, s := range b.services {
		for k, r := range s.reals {
			if _, live := sw.perReal[r.slot]; r.there || live {
				r.idle = 0
				continue
			}
			if r.idle++; r.idle < idlePasses {
				continue
			}
			b.retireCounters(s, r.slot)
			b.dp.Reals[r.slot].Flags = 0
			b.slots.give(r.slot)
			delete(s.reals, k)
		}
		if !s.there && len(s.reals) == 0 {
			b.forget(name, s)
		}
	}
	b.freeNumbers()
	sw.perReal, sw.perVIP = map[uint32]struct{}{}, map[uint16]struct{}{}
	sw.next = 0
}

func (b *Backend) forget(name string, s *service) {
	b.dp.Labels[s.index].Name = [56]int8{}
	b.retiring = append(b.retiring, s.span)
	b.byIndex[s.index] = nil
	b.freeIndex = min(b.freeIndex, int(s.index))
	delete(b.services, name)
}

func (b *Backend) freeNumbers() {
	used := map[endpoint]bool{}
	for _, s := range b.state.Services {
		for _, l := range s.Listeners {
			used[endpoint{l.Addr, l.Proto}] = true
		}
	}
	for vip := range bare(b.state) {
		used[endpoint{vip, lb.TCP}] = true
	}
	for n, e := range b.numbers.who {
		if _, live := b.sweep.perVIP[n]; live || used[e] || !b.applied {
			delete(b.numbers.idle, n)
			continue
		}
		if b.numbers.idle[n]++; b.numbers.idle[n] == idlePasses {
			b.numbers.drop(n)
		}
	}
}

// now is the packet path's clock (clock_now of bpf/flow.h).
func (b *Backend) now() uint64 {
	now, err := b.dp.Now()
	if err != nil {
		b.log.Error("clock of the packet path", "err", err)
	}
	return now
}

func (b *Backend) expired(v value, now uint64) bool {
	return uint16(now)-v.seen() > b.dp.Settings.Timeout[v.state()]
}

// load books by connections of a state for a real.
func (b *Backend) load(slot uint32, state uint8, by int32) {
	l := &b.dp.Loads[slot]
	if active(state) {
		atomic.AddInt32(&l.Active, by)
	} else {
		atomic.AddInt32(&l.Inactive, by)
	}
}
