package xdp

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// A stateless service has rows in place of a ring: the same reals at the same
// places, and with each what became of it. Packets of a settled row go to its
// real by arithmetic alone. When the row gets another real, its connections are
// stored as they send packets (bpf/connection.h, choose_by_row), until none can
// be left that is not; the sweeper then waits until none of those that are stored
// is at another real.

// rowsIn is how many rows of s there are in the lines of its span; 0: it has a ring.
func (s *service) rowsIn() int { return int(s.entry.Rows) }

// row is the place of a row of s.
func (b *Backend) row(s *service, i int) *uint64 {
	return &b.dp.Rings[int(s.span.at)+i/bpf.RowLineRows].Rows()[i%bpf.RowLineRows]
}

// countRows counts the rows of s, and those that are not settled.
func (b *Backend) countRows(s *service) (all, unsettled int) {
	all = s.rowsIn()
	for i := range all {
		if bpf.RowValue(load64(b.row(s, i))).State() != bpf.RowSettled {
			unsettled++
		}
	}
	return all, unsettled
}

// linesOfRows is how many lines so many rows fill.
func linesOfRows(n int) uint32 { return uint32(n+bpf.RowLineRows-1) / bpf.RowLineRows }

// layRows writes the rows of a ring into free lines. Those that s has go on: what
// the rows know of connections that are not stored does not end with a change.
func (b *Backend) layRows(s *service, ring *sched.Ring) error {
	at, err := b.rings.take(linesOfRows(len(ring.Slots)))
	if err != nil {
		return err
	}
	now := uint16(b.now())
	goesOn := s.rowsIn() == len(ring.Slots) && s.entry.Scheduler == kind[s.conf.Scheduler] &&
		(s.entry.Flags&bpf.ServicePort != 0) == s.conf.HashesPort()
	for i, slot := range ring.Slots {
		row := b.firstRow(s, slot)
		if goesOn {
			was := bpf.RowValue(load64(b.row(s, i)))
			row = was.WithReal(slot, b.generationOf(was.Real()), now)
			s.rowsChanged = s.rowsChanged || row != was
		}
		line := &b.dp.Rings[int(at.at)+i/bpf.RowLineRows]
		store64(&line.Rows()[i%bpf.RowLineRows], uint64(row))
	}
	b.ringsToRetire = append(b.ringsToRetire, s.span)
	s.span = at
	s.entry.Ring, s.entry.Rows = at.at, uint32(len(ring.Slots))
	if !goesOn || len(s.elsewhere) != len(ring.Slots) {
		s.rowsChanged, s.elsewhere = true, make([]bool, len(ring.Slots))
	}
	b.hasRows = true
	return nil
}

// firstRow is a row that there was not before. Of a service that was never there
// every row is settled, unless reals have not been checked yet, which are to have
// rows, too.
func (b *Backend) firstRow(s *service, slot uint32) bpf.RowValue {
	row := bpf.RowOf(slot)
	isUnchecked := func(c lb.Real) bool { return c.Unchecked }
	if !s.isFresh || slot == sched.None || slices.ContainsFunc(s.conf.Absent, isUnchecked) {
		return row.WithState(bpf.RowProvable)
	}
	return row
}

// generationOf is the generation of a slot.
func (b *Backend) generationOf(slot uint32) uint8 {
	if slot >= uint32(len(b.dp.Reals)) {
		return 0
	}
	return b.dp.Reals[slot].TenantGeneration()
}

// noteRow notes a live connection that is not at the real of its row.
func (b *Backend) noteRow(e entry, v bpf.FlowValue) {
	if !b.hasRows || !b.current(v) {
		return
	}
	s := b.byIndex[b.dp.Reals[v.Real()].Service%bpf.Services]
	if s == nil || s.rowsIn() == 0 || len(s.elsewhere) != s.rowsIn() {
		return
	}
	i := s.rowOf(e.client(), bpf.FlowKey(e.key).ClientPort())
	p := b.row(s, i)
	row := bpf.RowValue(load64(p))
	if row.Real() == v.Real() {
		return
	}
	s.elsewhere[i] = true
	if row.State() == bpf.RowSettled { // a peer's connection
		store64(p, uint64(row.WithState(bpf.RowProvable)))
	}
}

// rowOf is the row of a client.
func (s *service) rowOf(client netip.Addr, port uint16) int {
	if !s.conf.HashesPort() {
		port = 0
	}
	if s.conf.Scheduler == lb.MH {
		return sched.MHSlot(client, port, 0)
	}
	return sched.SHBucket(client, port)
}

// settleAllRows is the end of a pass for all stateless services.
func (b *Backend) settleAllRows() {
	if !b.hasRows {
		return
	}
	now := b.now()
	for _, s := range b.services {
		if s.rowsIn() > 0 {
			b.settleRows(s, now)
		}
	}
}

// settleRows brings the rows of s nearer to being settled, at the end of a pass.
func (b *Backend) settleRows(s *service, now uint64) {
	began := !s.rowsChanged // when the pass began, the rows were these
	s.rowsChanged = false
	if len(s.elsewhere) != s.rowsIn() {
		return // a predecessor's rows, which no Apply has laid yet
	}
	longest := b.longestTimeout(s)
	for i := range s.rowsIn() {
		p := b.row(s, i)
		row := bpf.RowValue(load64(p))
		if row.State() == bpf.RowSettled {
			continue
		}
		next := row
		if began {
			next = nearerToSettled(row, uint16(now)-row.Since() > longest, s.elsewhere[i])
		}
		if next != row {
			store64(p, uint64(next))
		}
		if next.State() != bpf.RowSettled && next.Settled() != bpf.RowNone {
			b.sweep.perReal[next.Settled()] = struct{}{} // its slot is not given away
		}
	}
	clear(s.elsewhere)
}

// nearerToSettled is a row at the end of a pass. isOver: what was idle when it
// changed has expired by now; isElsewhere: a connection of it was at another real.
func nearerToSettled(row bpf.RowValue, isOver, isElsewhere bool) bpf.RowValue {
	switch row.State() {
	case bpf.RowChanged:
		if isOver {
			return row.WithoutSettled()
		}
		if row.Settled() == row.Real() { // it has come back
			return row.WithState(bpf.RowProvable)
		}
		return row
	case bpf.RowProvable, bpf.RowProven:
		switch {
		case isElsewhere || row.Real() == bpf.RowNone:
			return row.WithState(bpf.RowProvable)
		case row.State() == bpf.RowProvable:
			return row.WithState(bpf.RowProven)
		}
		return bpf.RowOf(row.Real())
	}
	return row
}

// longestTimeout is how many ticks a connection of s may be idle at most.
func (b *Backend) longestTimeout(s *service) uint16 {
	t := &b.dp.Settings.Timeout
	for _, l := range s.conf.Listeners {
		if l.Proto == lb.TCP {
			return max(t[bpf.StateEstablished], t[bpf.StateFinWait], t[bpf.StateTimeWait], t[bpf.StateUDP])
		}
	}
	return t[bpf.StateUDP]
}
