package oracle

import (
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// row is a row of a stateless service: what the hash of its clients says, and
// what it said when nothing else was known of them.
type row struct {
	now, last *real // last: had it when it was settled; nil: none, or it is too long ago
	since     int64 // until when it was settled
	left      int   // steps until it is settled: 3 until what was idle has expired, then sweeps that find no connection of it elsewhere
	elsewhere bool  // this sweep has found one
}

// table is the scheduler's table of a hash over its list.
func (s *scheduler) table() []*real {
	if s.name == lb.MH {
		return s.populate()
	}
	table := make([]*real, 256)
	if len(s.list) == 0 {
		return table
	}
	i, taken := 0, 0
	for b := range table {
		table[b] = s.list[i].real
		if taken++; taken >= s.list[i].weight {
			i, taken = (i+1)%len(s.list), 0
		}
	}
	return table
}

// rowOf is the row of a client.
func (v *service) rowOf(k tuple) *row {
	x := number(k.client.Addr())
	if v.conf.Flags&(lb.SHPort|lb.MHPort) != 0 {
		x += uint32(k.client.Port())
	}
	if v.sched.name == lb.MH {
		return &v.rows[siphash(x, firstKey)%tableSize]
	}
	return &v.rows[bucket(x)]
}

// layRows gives the rows of v what its table says.
func (d *Director) layRows(v *service, isNew, isSame bool) {
	if !v.conf.KeepsNoFlows() {
		v.rows = nil
		return
	}
	table := v.sched.table()
	if isSame && len(v.rows) == len(table) {
		changed := false
		for i, r := range table {
			changed = changed || v.rows[i].now != r
			d.changeRow(&v.rows[i], r)
		}
		v.relaid = v.relaid || changed
		return
	}
	isAwaited := slices.ContainsFunc(v.conf.Absent, func(c lb.Real) bool { return c.Unchecked })
	v.rows, v.relaid = make([]row, len(table)), true
	for i, r := range table {
		v.rows[i] = row{now: r, left: 2}
		if isNew && r != nil && !isAwaited {
			v.rows[i].left = 0
		}
	}
}

func (d *Director) changeRow(w *row, r *real) {
	switch {
	case w.now == r:
		return
	case w.left == 0:
		w.last, w.since, w.left = w.now, d.now, 3
	case w.last != nil:
		w.left = 3
	default:
		w.left = 2
	}
	w.now = r
}

// byRow decides a packet without a connection: done is false if r is its real.
func (d *Director) byRow(v *service, k tuple, flags byte) (r *real, o Outcome, done bool) {
	w := v.rowOf(k)
	r = w.now
	if r == nil {
		r = v.sorry()
	}
	switch isTCP := k.proto == lb.TCP; {
	case isTCP && flags&2 != 0:
		return r, o, false
	case w.last != nil && w.last.reachable():
		if isTCP || !w.last.host.Silent {
			r = w.last
		}
		return r, o, false
	case !isTCP || w.last == nil && w.now != nil:
		return r, o, false
	case w.last == nil:
		return nil, passed("no_flow"), true
	case !d.state.ExpireNodestConn || w.last.unchecked:
		return nil, dropped("real_away"), true
	}
	return nil, passed("real_gone"), true
}

// bySettledRow decides a packet of a settled row, whatever connections there are.
func (d *Director) bySettledRow(p packet, k tuple, flags byte) (o Outcome, done bool) {
	v := d.listener(k)
	if v == nil || v.rows == nil {
		return o, false
	}
	w := v.rowOf(k)
	switch {
	case w.left > 0 || !w.now.reachable():
		return o, false
	case d.denied(v, p.src):
		return dropped("denied"), true
	case (k.proto != lb.TCP || flags&2 != 0) && d.isOwn(p.src): // what is no part of a connection for sure
		return passed("martian"), true
	}
	return d.send(p, w.now, k.proto == lb.TCP && flags&2 != 0, false), true
}

// noteRow notes a live connection that is not at the real of its row.
func (d *Director) noteRow(k tuple, f *flow) {
	v := f.real.service
	if !v.there || v.rows == nil {
		return
	}
	if w := v.rowOf(k); w.now != f.real {
		w.elsewhere = true
		if w.left == 0 {
			w.left = 2
		}
	}
}

// settleRows is the end of a sweep, which counts if the rows were these when it
// began.
func (d *Director) settleRows(v *service) {
	began := !v.relaid
	v.relaid = false
	longest := d.timeout("UDP")
	if slices.ContainsFunc(v.conf.Listeners, func(l lb.Listener) bool { return l.Proto == lb.TCP }) {
		longest = max(longest, d.timeout("ESTABLISHED"), d.timeout("FIN_WAIT"), d.timeout("TIME_WAIT"))
	}
	for i := range v.rows {
		w := &v.rows[i]
		if began && w.left > 0 {
			w.settle(d.now-w.since > longest)
		}
		w.elsewhere = false
		if w.last != nil {
			w.last.live = true
		}
	}
}

// settle is the end of a sweep for a row. isOver: what was idle when it changed
// has expired.
func (w *row) settle(isOver bool) {
	switch {
	case w.left == 3 && isOver:
		w.last, w.left = nil, 2
	case w.left == 3 && w.last == w.now:
		w.left = 2
	case w.left == 3:
	case w.elsewhere || w.now == nil:
		w.left = 2
	default:
		if w.left--; w.left == 0 {
			w.last = nil
		}
	}
}
