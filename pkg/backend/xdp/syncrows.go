package xdp

import (
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
)

// maxToldRows is how many rows of peers wait for what this director's file or
// checks do not have yet.
const maxToldRows = 1 << 17

// toldRows are rows of a service that peers have told of and that wait: each for its
// real to have it here as well.
type toldRows struct {
	rows connsync.Rows
	at   time.Time
}

// ChangedRows implements [connsync.Table]. Rows without a settled real are not among
// them: all of their connections that are elsewhere are stored.
func (b *Backend) ChangedRows() (all []connsync.Rows) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, s := range b.order {
		if rows := b.changedRows(s, uint16(now)); len(rows.Changed) > 0 {
			all = append(all, rows)
		}
	}
	return all
}

func (b *Backend) changedRows(s *service, now uint16) connsync.Rows {
	rows := connsync.Rows{Service: s.conf.Name, Count: s.rowsIn()}
	bySlot := map[uint32]netip.AddrPort{}
	for at, r := range s.reals {
		bySlot[r.slot] = at
	}
	for i := range rows.Count {
		row := bpf.RowValue(load64(b.row(s, i)))
		if row.State() != bpf.RowChanged || row.Settled() == row.Real() || row.Generation() != b.generationOf(row.Settled()) {
			continue
		}
		real, isThere := bySlot[row.Real()]
		settled, wasThere := bySlot[row.Settled()]
		if isThere && wasThere {
			rows.Changed = append(rows.Changed, connsync.Row{
				Number: i, Real: real, Settled: settled, Since: ticksDuration(int64(now - row.Since())),
			})
		}
	}
	return rows
}

// AbsorbRows implements [connsync.Table].
func (b *Backend) AbsorbRows(rows connsync.Rows) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if waits, ok := b.toldRows[rows.Service]; ok {
		rows.Changed = append(rows.Changed, waits.without(&rows, now)...)
	}
	waiting := 0
	for name, waits := range b.toldRows {
		if name != rows.Service {
			waiting += len(waits.rows.Changed)
		}
	}
	if waiting+len(rows.Changed) > maxToldRows {
		return
	}
	if b.toldRows == nil {
		b.toldRows = map[string]toldRows{}
	}
	b.toldRows[rows.Service] = toldRows{rows, now}
	b.takeToldRows()
}

// without are the rows that wait and are not among newer ones of the same service:
// another peer, which knows more, may have told of them.
func (w *toldRows) without(newer *connsync.Rows, now time.Time) (left []connsync.Row) {
	if w.rows.Count != newer.Count {
		return nil
	}
	isNewer := make(map[int]bool, len(newer.Changed))
	for i := range newer.Changed {
		isNewer[newer.Changed[i].Number] = true
	}
	for _, row := range w.rows.Changed {
		if !isNewer[row.Number] {
			row.Since += now.Sub(w.at)
			left = append(left, row)
		}
	}
	return left
}

// takeToldRows unsettles the rows of which a peer knows what this director does not:
// those that are settled here, and not there, and have the same real at both. Rows
// with another real here wait for this director's checks, or its file.
func (b *Backend) takeToldRows() {
	for name, waits := range b.toldRows {
		passed := time.Since(waits.at)
		s := b.services[name]
		if s != nil && s.isThere && s.rowsIn() == waits.rows.Count {
			waiting := waits.rows.Changed[:0]
			for _, row := range waits.rows.Changed {
				row.Since += passed
				if !b.takeToldRow(s, row) {
					row.Since -= passed
					waiting = append(waiting, row)
				}
			}
			waits.rows.Changed = waiting
			b.toldRows[name] = waits
		}
		if len(waits.rows.Changed) == 0 || passed > penTime {
			delete(b.toldRows, name)
		}
	}
}

// takeToldRow is false for a row that has another real here.
func (b *Backend) takeToldRow(s *service, of connsync.Row) bool {
	real, settled := s.reals[of.Real], s.reals[of.Settled]
	p := b.row(s, of.Number)
	row := bpf.RowValue(load64(p))
	switch {
	case row.State() == bpf.RowChanged:
		return true // this director was there
	case real == nil || settled == nil || row.Real() != real.slot:
		return false
	}
	since := uint16(b.now()) - uint16(min(ticks(of.Since), 1<<16-1))
	store64(p, uint64(bpf.RowOf(settled.slot).WithReal(real.slot, b.generationOf(settled.slot), since)))
	s.rowsChanged = true
	return true
}
