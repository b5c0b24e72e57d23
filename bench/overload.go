package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/lvx-lb/lvx/bpf"
)

// overloaded is how many flows there are for one of the stated capacity.
const overloaded = 5

// losses is what became of connections.
type losses struct {
	lost    uint64 // established, younger than their timeout, and gone
	again   uint64 // opened a second time: a run that a signal interrupts is repeated
	evicted evictions
}

// overload puts five times the stated number of flows into the table, in two
// ways: as a flood of SYNs against established connections, and as
// connections that are all established.
func overload(ctx context.Context, j *job) error {
	capacity := 10 * million
	if j.quick {
		capacity = million / 4
	}
	return overloadOf(ctx, j, capacity)
}

func overloadOf(ctx context.Context, j *job, capacity int) (err error) {
	if err := ownNamespace(); err != nil {
		return err
	}
	r, err := newRig(rigOptions{flows: capacity, templates: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.apply(services(1, 2)); err != nil {
		return err
	}
	fmt.Fprintf(j.notes, "%d SYNs against %d connections ", (overloaded-1)*capacity, capacity)
	flood, err := r.flood(ctx, j, capacity)
	if err != nil {
		return err
	}
	fmt.Fprintf(j.notes, "\n%d connections into a table for %d ", overloaded*capacity, capacity)
	crowd, err := r.crowd(ctx, j, capacity)
	if err != nil {
		return err
	}
	fmt.Fprintln(j.notes)
	note := func(name, what string, l losses, of int) {
		j.report.figure("overload", name+"/lost", what+": established ones lost", "flows", float64(l.lost))
		j.report.figure("overload", name+"/share", what+": the same, of all established", "%", 100*float64(l.lost)/float64(of))
		for kind, n := range l.evicted {
			if kind < firstTemplate {
				j.report.figure("overload", name+"/"+evictionNames[kind], what+": places taken from "+evictionNames[kind]+" ones", "flows", float64(n))
			}
		}
	}
	note("flood", "flood", flood, capacity)
	note("crowd", "crowd", crowd, overloaded*capacity)
	j.report.Checks = append(j.report.Checks,
		atMost("flood of 4 x the capacity: share of established flows lost (%)", 100*float64(flood.lost)/float64(capacity), 0.1),
		atMost("crowd of 5 x the capacity: evictions that are not accounted for", unaccounted(crowd), 0))
	return nil
}

// unaccounted is by how much the counters of evictions and the connections
// that are gone differ.
func unaccounted(l losses) float64 {
	n := l.evicted[bpf.EvictedEstablished] + l.evicted[bpf.EvictedUnproven] +
		l.evicted[bpf.EvictedHalfOpen]
	unfinished := l.lost + l.again
	return max(float64(unfinished)-float64(n), float64(n)-float64(unfinished))
}

// flood establishes as many connections as the table is stated to hold, and
// then sends four times as many SYNs that nobody follows up.
func (r *rig) flood(ctx context.Context, j *job, capacity int) (l losses, err error) {
	if err := r.inPieces(ctx, j, 0, capacity, r.establishAt); err != nil {
		return l, err
	}
	before, err := r.evictions()
	if err != nil {
		return l, err
	}
	if err := r.inPieces(ctx, j, capacity, overloaded*capacity, r.openAt); err != nil {
		return l, err
	}
	return r.losses(ctx, j, before, capacity)
}

// crowd establishes five times as many connections as the table is stated to
// hold.
func (r *rig) crowd(ctx context.Context, j *job, capacity int) (l losses, err error) {
	_ = r.forget()
	before, err := r.evictions()
	if err != nil {
		return l, err
	}
	opened, err := r.opened()
	if err != nil {
		return l, err
	}
	if err := r.inPieces(ctx, j, 0, overloaded*capacity, r.establishAt); err != nil {
		return l, err
	}
	now, err := r.opened()
	if err != nil {
		return l, err
	}
	l, err = r.losses(ctx, j, before, overloaded*capacity)
	l.again = now - opened - uint64(overloaded*capacity)
	return l, err
}

// opened is how many connections lvx has counted.
func (r *rig) opened() (n uint64, err error) {
	st, err := r.lvx.Stats()
	for _, s := range st.Services {
		n += s.Conns
	}
	return n, err
}

// losses asks for the first n connections, which were established a moment
// ago, with a packet of data each.
func (r *rig) losses(ctx context.Context, j *job, before evictions, n int) (l losses, err error) {
	after, err := r.evictions()
	if err != nil {
		return l, err
	}
	l.evicted = after.since(before)
	alive := uint64(0)
	err = r.inPieces(ctx, j, 0, n, func(from, n int) error {
		found, err := r.alive(from, n)
		alive += found
		return err
	})
	l.lost = uint64(n) - alive
	return l, err
}

// alive sends a packet of data of each of n flows, again if that run was
// interrupted, and returns how many of them there are.
func (r *rig) alive(from, n int) (uint64, error) {
	for {
		runs := r.repeated
		before := r.verdicts()
		if err := r.sendFrom(ack, from, n); err != nil {
			return 0, err
		}
		if after := r.verdicts(); r.repeated == runs {
			return after[forwarded] - before[forwarded], nil
		}
	}
}

// piece is how many flows are opened before the first of them goes on: what a
// busy director has half open at a time.
const piece = 50_000

// inPieces does something to the flows from first to before last.
func (r *rig) inPieces(ctx context.Context, j *job, first, last int, do func(from, n int) error) error {
	for from := first; from < last; from += piece {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := do(from, min(piece, last-from)); err != nil {
			return err
		}
		if (from-first)/piece%100 == 0 {
			fmt.Fprint(j.notes, ".")
		}
	}
	return nil
}

func (r *rig) establishAt(from, n int) error {
	for _, flags := range []byte{syn, ack, ack} {
		if err := r.sendFrom(flags, from, n); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) openAt(from, n int) error { return r.sendFrom(syn, from, n) }

// sendFrom sends a packet of each of n flows.
func (r *rig) sendFrom(flags byte, from, n int) error {
	t := sequence(tcpFrame(flags), from)
	_, _, err := r.run(r.prog, &t, n)
	return err
}

// evictions is how many places changed hands, by what was lost.
type evictions [bpf.Evictions]uint64

// firstTemplate is the first kind that is not about flows.
const firstTemplate = int(bpf.EvictedTemplate)

// evictionNames are the kinds of enum eviction that are about flows.
var evictionNames = [firstTemplate]string{
	bpf.EvictedExpired: "expired", bpf.EvictedHalfOpen: "half-open",
	bpf.EvictedUnproven: "unproven", bpf.EvictedEstablished: "proven",
}

func (r *rig) evictions() (e evictions, err error) {
	for i := range e {
		var per []bpf.Tally
		if err := r.dp.Maps.Evictions.Lookup(uint32(i), &per); err != nil {
			return e, fmt.Errorf("evictions: %w", err)
		}
		for _, t := range per {
			e[i] += t.Count
		}
	}
	return e, nil
}

func (e evictions) since(before evictions) evictions {
	for i := range e {
		e[i] -= before[i]
	}
	return e
}

func (e evictions) total() (n uint64) {
	for _, x := range e[:firstTemplate] {
		n += x
	}
	return n
}
