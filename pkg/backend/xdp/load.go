package xdp

import (
	"sync/atomic"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// share is one of the shares in which the connections of a real are counted.
func (b *Backend) share(slot uint32, part int) *bpf.Share {
	return &b.dp.Shares[slot&^(bpf.Shares-1)|uint32(part)].Of[slot&(bpf.Shares-1)]
}

// load books by connections of a state for a real. In the first share: it is the
// one that has to be right where counting is not spread.
func (b *Backend) load(slot uint32, state bpf.FlowState, by int32) {
	s := b.share(slot, 0)
	if state.IsActive() {
		atomic.AddInt32(&s.Active, by)
	} else {
		atomic.AddInt32(&s.Inactive, by)
	}
}

// liveConnections is how many connections the packet path counts for a real, active
// and inactive ones. Neither is negative.
func (b *Backend) liveConnections(slot uint32) (active, inactive int32) {
	for part := range bpf.Shares {
		s := b.share(slot, part)
		active += atomic.LoadInt32(&s.Active)
		inactive += atomic.LoadInt32(&s.Inactive)
	}
	return max(active, 0), max(inactive, 0)
}

func (b *Backend) clearConnections(slot uint32) {
	for part := range bpf.Shares {
		*b.share(slot, part) = bpf.Share{}
	}
}

// spread puts into force how the connections of a real of s are counted: by each
// CPU for itself, unless the packet path goes by their number. Then the first share
// gets what the others have; what a packet that is under way adds to another one
// meanwhile it gets when the real is written the next time.
func (b *Backend) spread(s *service, r *real) {
	l, parts := &b.dp.Loads[r.slot], uint32(bpf.Shares-1)
	if goesByLoad(s.conf.Scheduler) || r.conf.Upper != 0 {
		parts = 0
	}
	atomic.StoreUint32(&l.Spread, parts)
	if parts != 0 {
		return
	}
	first := b.share(r.slot, 0)
	for part := 1; part < bpf.Shares; part++ {
		s := b.share(r.slot, part)
		atomic.AddInt32(&first.Active, atomic.SwapInt32(&s.Active, 0))
		atomic.AddInt32(&first.Inactive, atomic.SwapInt32(&s.Inactive, 0))
	}
}

// goesByLoad reports whether a scheduler chooses by the connections of its reals.
func goesByLoad(s lb.Scheduler) bool {
	switch s {
	case lb.RR, lb.WRR, lb.SH, lb.DH, lb.MH:
		return false
	}
	return true
}

// retired is what those of a service's reals have counted that are gone for good.
func (b *Backend) retired(s *service) lb.Counters {
	c := &b.dp.Cursors[s.index]
	return lb.Counters{Conns: c.Connections, InPkts: c.Packets, InBytes: c.Bytes, OutPkts: c.ReplyPackets, OutBytes: c.ReplyBytes}
}

// retireCounters keeps a real's share in its service's sum, for the daemon's next start
// as well.
func (b *Backend) retireCounters(s *service, slot uint32) {
	n, err := b.counters(slot)
	if err != nil {
		return
	}
	add(&n, b.retired(s))
	c := &b.dp.Cursors[s.index]
	c.Connections, c.Packets, c.Bytes, c.ReplyPackets, c.ReplyBytes = n.Conns, n.InPkts, n.InBytes, n.OutPkts, n.OutBytes
}
