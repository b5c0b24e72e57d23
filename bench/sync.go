package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/connsync"
)

// mostJoining is how long a director may take until it is in sync, in times of
// reading the table once.
const mostJoining = 5

// churnRate is how many connections are opened, and closed, in a second.
const churnRate = 100_000

// connections measures how long a director that joins needs until it is in sync,
// and what it costs to tell a peer of connections that come and go.
func connections(ctx context.Context, j *job) error {
	sizes, seconds := []int{million, 10 * million}, 10
	if j.quick {
		sizes, seconds = []int{million / 10}, 2
	}
	return connectionsOf(ctx, j, sizes, seconds)
}

func connectionsOf(ctx context.Context, j *job, sizes []int, seconds int) error {
	if err := ownNamespace(); err != nil {
		return err
	}
	for _, flows := range sizes {
		if !j.wants(fmt.Sprintf("join/%d", flows)) {
			continue
		}
		if err := joinWith(ctx, j, flows); err != nil {
			return fmt.Errorf("join with %d flows: %w", flows, err)
		}
	}
	if !j.wants("churn") {
		return nil
	}
	return churn(ctx, j, churnRate, seconds)
}

// joins is how many directors join, one after another, of which the median counts.
const joins = 3

// joinWith has directors with an empty table join one with so many flows.
func joinWith(ctx context.Context, j *job, flows int) (err error) {
	fmt.Fprintf(j.notes, "%d directors join, %d flows ", joins, flows)
	r, err := newRig(rigOptions{flows: flows, templates: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.apply(services(1, 2)); err != nil {
		return err
	}
	if err := r.inPieces(ctx, j, 0, flows, r.establishAt); err != nil {
		return err
	}
	var readings, joinings, ratios []float64
	for range joins {
		reading, joining, err := r.join(ctx, flows)
		if err != nil {
			return err
		}
		readings, joinings = append(readings, milliseconds(reading)), append(joinings, milliseconds(joining))
		ratios = append(ratios, joining.Seconds()/reading.Seconds())
		fmt.Fprint(j.notes, ".")
	}
	fmt.Fprintln(j.notes)
	name := fmt.Sprintf("join/%d", flows)
	j.report.spread("sync", name+"/read", fmt.Sprintf("%d flows: the table is read once", flows), "ms", readings)
	j.report.spread("sync", name, fmt.Sprintf("%d flows: from the start of a director's session to in sync", flows), "ms", joinings)
	j.report.Checks = append(j.report.Checks, atMost(fmt.Sprintf("a director joins, %d flows: in sync / reading the table once", flows),
		summarize(ratios).Median, mostJoining))
	return nil
}

// join has a director with an empty table join, and returns how long reading the rig's
// table once takes, and how long it takes until the director has it.
func (r *rig) join(ctx context.Context, flows int) (reading, joining time.Duration, err error) {
	joiner, err := xdp.Open(ctx, xdp.Options{
		Log: slog.New(slog.DiscardHandler), Interfaces: []string{nicPeer}, Mode: loader.Native,
		PinDir: fmt.Sprintf("/sys/fs/bpf/lvx-bench-%d-joiner", os.Getpid()), Flows: flows, Templates: 1,
		Neighbors: segment{loopback}, NoSweeper: true,
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, joiner.Close(false)) }()
	if err := joiner.Apply(ctx, services(1, 2)); err != nil {
		return 0, 0, err
	}
	_, stop := joiner.TellNews(func(*connsync.Batch) {}) // as each director does
	defer stop()
	began, entries := time.Now(), 0
	if err := r.lvx.Walk(ctx, func(b *connsync.Batch) error { entries += len(b.Members); return nil }); err != nil {
		return 0, 0, err
	}
	reading = time.Since(began)
	began = time.Now()
	s, err := newSession(ctx, joiner, r.lvx)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	select {
	case <-s.inSync:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	joining = time.Since(began)
	st := s.first.Status()[0]
	if got := int(st.Received - st.Rejected); got < entries-entries/1000 {
		return 0, 0, fmt.Errorf("in sync with %d entries of %d", got, entries)
	}
	return reading, joining, nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// churn opens and closes connections, alone and with a peer that is told of them,
// and compares what that costs.
func churn(ctx context.Context, j *job, rate, seconds int) error {
	fmt.Fprintf(j.notes, "%d connections a second for twice %d s ", rate, seconds)
	alone, err := churnOnce(ctx, j, rate, seconds, false)
	if err != nil {
		return err
	}
	synced, err := churnOnce(ctx, j, rate, seconds, true)
	if err != nil {
		return err
	}
	fmt.Fprintln(j.notes)
	if least := uint64(rate * seconds); synced.read < least {
		return fmt.Errorf("a peer has read %d entries, fewer than the %d that were opened", synced.read, least)
	}
	perSecond := func(d time.Duration) float64 { return d.Seconds() / float64(seconds) }
	telling, forwarding := perSecond(max(0, synced.others-alone.others)), perSecond(alone.forwarding)
	figure := func(name, title, unit string, value float64) {
		j.report.figure("sync", "churn/"+name, title, unit, value)
	}
	figure("took", fmt.Sprintf("%d opens and closes a second for %d s: took", rate, seconds+1), "s", synced.took.Seconds())
	figure("forwarding", fmt.Sprintf("%d opens and closes a second: forwarding them, of a core", rate), "%", 100*forwarding)
	figure("forwarding-synced", "the same while a peer is told", "%", 100*perSecond(synced.forwarding))
	figure("telling", "the same: telling the peer of them, of a core", "%", 100*telling)
	figure("reading", "the same: the peer's reading of them, of a core", "%", 100*perSecond(synced.reading))
	figure("entries", "the same: entries that the peer has read", "per s", float64(synced.read)/float64(seconds))
	figure("share", "the same: CPU of telling / CPU of forwarding by prog-run", "", telling/forwarding)
	return nil
}

// spent is CPU time: of the process that forwards, of this one, and of the peer.
type spent struct {
	forwarding, others, reading time.Duration
	took                        time.Duration
	read                        uint64 // entries that the peer has
}

// churnOnce opens connections and closes them a second later, and returns what
// that costs.
func churnOnce(ctx context.Context, j *job, rate, seconds int, isSynced bool) (s spent, err error) {
	r, err := newRig(rigOptions{flows: rate * (seconds + 2), templates: 1, sweeper: true})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.apply(services(1, 2)); err != nil {
		return s, err
	}
	if isSynced {
		peer, err := startTelling(ctx, r.lvx)
		if err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, peer.stop()) }()
		before, _, err := peer.spent()
		if err != nil {
			return s, err
		}
		if err := r.openAndClose(ctx, j, rate, seconds, &s); err != nil {
			return s, err
		}
		if err := peer.mesh.Flush(ctx); err != nil {
			return s, err
		}
		s.reading, s.read, err = peer.spent()
		s.reading -= before
		return s, err
	}
	return s, r.openAndClose(ctx, j, rate, seconds, &s)
}

// openAndClose opens connections for so many seconds and closes each a second
// later, and notes what that costs the forwarder and this process.
func (r *rig) openAndClose(ctx context.Context, j *job, rate, seconds int, s *spent) (err error) {
	f, err := r.startForwarder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	part := rate / 10
	began, before := time.Now(), processTime()
	tick := time.NewTicker(time.Second / 10)
	defer tick.Stop()
	for n := range 10 * (seconds + 1) {
		from := n * part
		if n < 10*seconds {
			if err := s.forward(f, from, part, syn, ack, ack); err != nil {
				return err
			}
		}
		if n >= 10 {
			if err := s.forward(f, from-10*part, part, fin|ack); err != nil {
				return err
			}
		}
		if n%10 == 0 {
			fmt.Fprint(j.notes, ".")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.others = processTime() - before
	s.took = time.Since(began)
	return nil
}

// forward sends such packets of each of n flows.
func (s *spent) forward(f *forwarder, from, n int, flags ...byte) error {
	for _, of := range flags {
		cpu, err := f.send(of, from, n)
		if err != nil {
			return err
		}
		s.forwarding += cpu
	}
	return nil
}

// processTime is how long all threads of the process have run.
func processTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
