package health

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of [Options].
const (
	DefaultConcurrency     = 4096
	DefaultExecConcurrency = 16
)

// tick is the grid on which probes start. It saves waking up for each of
// thousands of probes; an interval is never shorter than several ticks.
const tick = 5 * time.Millisecond

// Options are what a [Monitor] works with. The zero value is usable.
type Options struct {
	// New builds checkers; default [New] without options.
	New func(Target) (Checker, error)
	// Concurrency bounds the probes that are on their way at once, so that
	// hung ones do not use up the file descriptors; default
	// [DefaultConcurrency], or a quarter of the limit of open files if that
	// is less.
	Concurrency int
	// ExecConcurrency bounds the programs that run at once: they have
	// their own places, because a process costs more than a socket.
	// Default [DefaultExecConcurrency].
	ExecConcurrency int
}

// Monitor asks targets on time and keeps their status. Its methods may be
// called from any goroutine, before and while Run runs.
type Monitor struct {
	newChecker    func(Target) (Checker, error)
	events        chan Event
	pendingEvents *eventQueue
	wake          chan struct{} // holds one token: the head of the agenda changed
	start         time.Time     // the agenda counts from here

	setting sync.Mutex // one Set at a time

	mu      sync.Mutex
	probes  map[Target]*probe
	presets map[Target]Status
	agenda  agenda
	wakeAt  time.Duration // when Run will look at the agenda again
	sockets probeSlots
	execs   probeSlots
}

// probe is one target and everything about it. Monitor.mu guards it, but for
// the checker, which belongs to the worker while the probe runs.
type probe struct {
	target  Target
	spec    Spec // with defaults
	checker Checker
	record  record
	slots   *probeSlots
	due     time.Duration // next start
	index   int           // in the agenda; -1 = not there
	running bool
	first   bool // not asked yet
	removed bool // no longer wanted
}

// probeSlots is a number of places for probes, and those that wait for one.
type probeSlots struct {
	free    int
	waiting []*probe
}

// NewMonitor makes a monitor without targets.
func NewMonitor(o Options) *Monitor {
	if o.New == nil {
		o.New = func(t Target) (Checker, error) { return New(t) }
	}
	if o.Concurrency <= 0 {
		o.Concurrency = min(DefaultConcurrency, openFiles()/4)
	}
	if o.ExecConcurrency <= 0 {
		o.ExecConcurrency = DefaultExecConcurrency
	}
	return &Monitor{
		newChecker:    o.New,
		events:        make(chan Event),
		pendingEvents: newEventQueue(),
		wake:          make(chan struct{}, 1),
		start:         time.Now(),
		probes:        map[Target]*probe{},
		presets:       map[Target]Status{},
		sockets:       probeSlots{free: o.Concurrency},
		execs:         probeSlots{free: o.ExecConcurrency},
	}
}

// openFiles is the limit of open files, at least 256.
func openFiles() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(max(l.Cur, 256), 1<<20))
}

// Events delivers what changed: Up, Known or Flapping of one target. A slow
// listener does not hold the monitor up: it gets, per target, the oldest
// status it has not seen the end of and the newest one. The channel is
// closed when Run returns.
func (m *Monitor) Events() <-chan Event { return m.events }

// Status reports on one target; the zero Status if it is not asked.
func (m *Monitor) Status(t Target) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.probes[t]; ok {
		return p.record.Status
	}
	return Status{}
}

// Snapshot reports on every target.
func (m *Monitor) Snapshot() map[Target]Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[Target]Status, len(m.probes))
	for t, p := range m.probes {
		all[t] = p.record.Status
	}
	return all
}

// Run asks until ctx ends, then waits for the probes on their way. It must
// be called once; it returns nil. What was found out can still be read
// afterwards, to be remembered for [Monitor.Preset].
func (m *Monitor) Run(ctx context.Context) error {
	var workers, mailman sync.WaitGroup
	mailman.Go(func() { m.pendingEvents.deliver(ctx, m.events) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(m.startDue(ctx, &workers))
		select {
		case <-timer.C:
		case <-m.wake:
		case <-ctx.Done():
		}
	}
	workers.Wait()
	mailman.Wait()
	close(m.events)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.probes {
		closeChecker(p.checker)
		p.checker = brokenChecker{context.Canceled}
	}
	return nil
}

// idleWait is how long Run sleeps when there is nothing to do.
const idleWait = time.Hour

// startDue starts every probe that is due and returns the time until the next
// one is.
func (m *Monitor) startDue(ctx context.Context, workers *sync.WaitGroup) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.start)
	for len(m.agenda) > 0 && m.agenda[0].due <= now {
		p := m.agenda.pop()
		if p.slots.free == 0 {
			p.slots.waiting = append(p.slots.waiting, p)
			continue
		}
		p.slots.free--
		p.running = true
		workers.Go(func() { m.runProbe(ctx, p) })
	}
	m.wakeAt = now + idleWait
	if len(m.agenda) > 0 {
		m.wakeAt = m.agenda[0].due
	}
	return m.wakeAt - now
}

// runProbe asks p, and then the probes that wait for p's place.
func (m *Monitor) runProbe(ctx context.Context, p *probe) {
	for p != nil {
		began := time.Now()
		err := p.checker.Check(ctx)
		p = m.finishProbe(ctx, p, began, err)
	}
}

// finishProbe enters a result, puts p on the agenda again and returns the next
// probe that waits for p's place, if any.
func (m *Monitor) finishProbe(ctx context.Context, p *probe, began time.Time, err error) *probe {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.running = false
	switch {
	case p.removed:
		closeChecker(p.checker)
	case ctx.Err() != nil: // the check was broken off
	default:
		now := time.Now()
		before := p.record.Status
		if p.record.addResult(now, now.Sub(began), err) {
			m.pendingEvents.put(Event{Target: p.target, Old: before, New: p.record.Status})
		}
		m.schedule(p, p.nextStart(began.Sub(m.start), err, rand.Float64()))
	}
	if len(p.slots.waiting) > 0 && ctx.Err() == nil {
		q := p.slots.waiting[0]
		p.slots.waiting = p.slots.waiting[1:]
		q.running = true
		return q
	}
	p.slots.free++
	return nil
}

// nextStart is when p is to start again after a probe that began at the given
// time. Jitter only shortens the interval, so that the time until a dead
// real is down has a bound: fall intervals and a timeout. After the first
// probe, which all targets start with at once, they spread over the
// interval.
func (p *probe) nextStart(began time.Duration, err error, random float64) time.Duration {
	interval := p.spec.Interval
	share := 1 - p.spec.Jitter*random
	switch {
	case err != nil:
		interval = p.spec.RetryDelay
	case p.first:
		share = 1 - random
	}
	p.first = false
	return began + time.Duration(float64(interval)*share)
}

// schedule puts p on the agenda, at the tick before due, but not in the
// past.
func (m *Monitor) schedule(p *probe, due time.Duration) {
	now := time.Since(m.start)
	p.due = max(due.Truncate(tick), (now + tick).Truncate(tick))
	m.addToAgenda(p)
}

func (m *Monitor) addToAgenda(p *probe) {
	m.agenda.push(p)
	if m.agenda[0].due < m.wakeAt {
		m.wakeAt = m.agenda[0].due
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func closeChecker(c Checker) {
	if closer, ok := c.(io.Closer); ok {
		_ = closer.Close() // what a checker holds is memory and map entries
	}
}

// brokenChecker stands in for a checker that could not be built: the real is down
// with that reason.
type brokenChecker struct{ err error }

func (b brokenChecker) Check(context.Context) error { return fmt.Errorf("check: %w", b.err) }
