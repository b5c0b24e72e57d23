package xdp

import (
	"context"
	"math"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/bpf"
)

// Timeouts that ipvsadm cannot set either (tcp_timeouts of
// ip_vs_proto_tcp.c).
const (
	synRecvTimeout  = 60 * time.Second
	timeWaitTimeout = 120 * time.Second
	closeTimeout    = 10 * time.Second

	// Of connections that are seen both ways alone.
	synSentTimeout   = 120 * time.Second
	closeWaitTimeout = 60 * time.Second
	lastAckTimeout   = 30 * time.Second
	synAckTimeout    = 120 * time.Second

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
	over    []entry             // flows that have expired
	perReal map[uint32]struct{} // slots seen in this pass
	perVIP  map[uint16]struct{}
	perPort map[vipPort]struct{} // where formerReplies are asked for
}

func (b *Backend) runSweeper(ctx context.Context) {
	tick := time.NewTicker(sweepStep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.sweepPart(b.flowSets()/sweepSteps + 1)
		}
	}
}

// Sweep walks the whole table once.
func (b *Backend) Sweep() { b.sweepPart(b.flowSets()) }

func (b *Backend) sweepPart(sets int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sweep.perReal == nil {
		b.startPass()
	}
	now := b.now()
	end, first := min(b.sweep.next+sets, b.flowSets()), 0
	for _, t := range b.flowTables() { // one behind the other
		for set := max(b.sweep.next-first, 0); set < min(end-first, t.sets()); set++ {
			if !t.isEmpty(set) {
				b.sweepSet(t, set, now)
			}
			if len(b.sweep.over) >= bpf.FlowChanges {
				b.endExpired(t)
			}
		}
		b.endExpired(t)
		first += t.sets()
	}
	if err := b.errOfPieces(); err != nil { // who has no flow is not known
		b.log.Error("sweep of the flow table", "err", err)
		b.startPass()
		return
	}
	b.sweep.next = end
	if end == first {
		if b.persistent {
			b.sweepTemplates(now)
		}
		b.finishPass()
	}
}

func (b *Backend) sweepSet(t table, set int, now uint64) {
	for w := range bpf.Ways {
		e := t.at(set, w)
		v := bpf.FlowValue(load64(e.value))
		if !v.IsLive() {
			continue
		}
		if b.expired(v, now) {
			e.was = v
			b.sweep.over = append(b.sweep.over, e)
			continue
		}
		b.sweep.perReal[v.Real()] = struct{}{}
		b.sweep.perVIP[bpf.FlowKey(e.key).VIP()] = struct{}{}
		if len(b.formerReplies) > 0 {
			b.sweep.perPort[vipPort{bpf.FlowKey(e.key).VIP(), v.Port()}] = struct{}{}
		}
		b.restampFlow(e.client(), v, now)
		b.noteRow(e, v)
		if b.news != nil {
			b.findFlowNews(t, set, w, v)
		}
	}
}

// endExpired frees the places of the flows of a table that have expired.
func (b *Backend) endExpired(t table) {
	err := t.end(b.sweep.over, func(v bpf.FlowValue) {
		if b.current(v) {
			b.load(v.Real(), v.State(), -1)
		}
	})
	if err != nil {
		b.log.Error("end of flows", "err", err)
	}
	b.sweep.over = b.sweep.over[:0]
}

// restampFlow keeps the template of a live connection alive: the kernel re-arms a
// controlling entry by 60 s while one of its connections lives
// (ip_vs_conn_expire).
func (b *Backend) restampFlow(client netip.Addr, v bpf.FlowValue, now uint64) {
	if !b.current(v) {
		return
	}
	s := b.byIndex[b.dp.Reals[v.Real()].Service%bpf.Services]
	if s == nil || !s.conf.Persistence.Enabled() {
		return
	}
	p, t := b.findTemplate(s, client)
	if p == nil || t.Left(now) < 0 || t.Left(now) > renewMargin || t.Real() != v.Real() {
		return
	}
	until := uint32(now) + uint32(t.Left(now)) + ticks(renewTicks*time.Second)
	compareAndSwap64(p, uint64(t), uint64(t.Renewed(until)))
}

// findTemplate finds the client's live template of a service.
func (b *Backend) findTemplate(s *service, client netip.Addr) (*uint64, bpf.TemplateValue) {
	table := b.templateTables()[0]
	if client.Is6() {
		table = b.templateTables()[1]
	}
	if table.sets() < 2 {
		return nil, 0 // IPv6 is not served
	}
	network, want := b.templateOf(s, client)
	for _, set := range bpf.TwoSets(b.dp.Settings.TemplateHash(want), uint32(table.sets())) {
		for w := range bpf.Ways {
			e := table.at(int(set), w)
			if bpf.TemplateKey(e.key) != want || e.client() != network {
				continue
			}
			if t := bpf.TemplateValue(load64(e.value)); t.IsLive() {
				return e.value, t
			}
		}
	}
	return nil, 0
}

func (b *Backend) sweepTemplates(now uint64) {
	for _, table := range b.templateTables() {
		for set := range table.sets() {
			for w := range bpf.Ways {
				p := table.at(set, w).value
				b.sweepTemplate(p, now)
				if b.news != nil {
					b.findTemplateNews(table, set, w, bpf.TemplateValue(load64(p)))
				}
			}
		}
	}
}

func (b *Backend) sweepTemplate(p *uint64, now uint64) {
	t := bpf.TemplateValue(load64(p))
	switch {
	case !t.IsLive():
	case t.Left(now) < 0:
		compareAndSwap64(p, uint64(t), uint64(t.Ended()))
	default:
		b.sweep.perReal[t.Real()] = struct{}{}
	}
}

// finishPass frees what no flow refers to any more.
func (b *Backend) finishPass() {
	sw := &b.sweep
	b.settleAllRows()
	for name, s := range b.services {
		for k, r := range s.reals {
			if _, live := sw.perReal[r.slot]; r.isThere || live {
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
		if !s.isThere && len(s.reals) == 0 {
			b.forget(name, s)
		}
	}
	b.ageReplies()
	b.freeNumbers()
	b.startPass()
}

func (b *Backend) startPass() {
	b.sweep.perReal, b.sweep.perVIP, b.sweep.perPort = map[uint32]struct{}{}, map[uint16]struct{}{}, map[vipPort]struct{}{}
	b.sweep.next = 0
}

func (b *Backend) forget(name string, s *service) {
	b.dp.Labels[s.index].Name = labelOf("")
	b.ringsToRetire = append(b.ringsToRetire, s.span)
	b.byIndex[s.index] = nil
	b.freeIndex = min(b.freeIndex, int(s.index))
	delete(b.services, name)
}

// now is the packet path's clock (clock_now of bpf/flow.h).
func (b *Backend) now() uint64 {
	now, err := b.dp.Now()
	if err != nil {
		b.log.Error("clock of the packet path", "err", err)
	}
	return now
}

func (b *Backend) expired(v bpf.FlowValue, now uint64) bool {
	return age(v, now) > b.dp.Settings.Timeout[v.Code()]
}

// age is how many ticks ago a flow was seen; 0 if that was after now.
func age(v bpf.FlowValue, now uint64) uint16 {
	if ticks := uint16(now) - v.Seen(); ticks <= math.MaxUint16-bpf.MostAhead {
		return ticks
	}
	return 0
}
