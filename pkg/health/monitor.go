package health

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of [Options].
const (
	DefaultConcurrency     = 4096
	DefaultExecConcurrency = 16
)

// probeGrid is the grid on which probes start. It saves waking up for each of
// thousands of probes; an interval is never shorter than several ticks.
const probeGrid = 5 * time.Millisecond

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

	// Log gets a line when a check cannot be asked, and when it can again;
	// default none.
	Log *slog.Logger
	// OnFailure is called with a real whenever a check of it has failed. It
	// must not block.
	OnFailure func(real netip.Addr)
	// CannotAsk says why this host cannot reach a real through no fault of the
	// real, nil if it can. A check that fails meanwhile is not counted.
	CannotAsk func(real netip.Addr) error
}

// Monitor asks targets on time and keeps their status. Its methods may be
// called from any goroutine, before and while Run runs.
type Monitor struct {
	opts          Options
	log           *slog.Logger
	events        chan Event
	pendingEvents *eventQueue
	wake          chan struct{} // holds one token: the head of the agenda changed
	start         time.Time     // the agenda counts from here

	setting sync.Mutex // one Set at a time

	mu       sync.Mutex
	probes   map[Target]*probe
	byReal   map[netip.Addr]map[*probe]bool
	presets  map[Target]Status
	agenda   agenda
	wakeAt   time.Duration // when Run will look at the agenda again
	answered chan struct{} // closed, and made anew, with each result
	sockets  probeSlots
	execs    probeSlots
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
	stop    context.CancelFunc // while it runs: breaks it off
	anew    bool               // while it runs: it was broken off to be asked again at once
	first   bool               // not asked yet
	removed bool               // no longer wanted
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
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnFailure == nil {
		o.OnFailure = func(netip.Addr) {}
	}
	if o.CannotAsk == nil {
		o.CannotAsk = func(netip.Addr) error { return nil }
	}
	if o.Concurrency <= 0 {
		o.Concurrency = min(DefaultConcurrency, openFiles()/4)
	}
	if o.ExecConcurrency <= 0 {
		o.ExecConcurrency = DefaultExecConcurrency
	}
	return &Monitor{
		opts:          o,
		log:           o.Log.With("component", "health"),
		answered:      make(chan struct{}),
		events:        make(chan Event),
		pendingEvents: newEventQueue(),
		wake:          make(chan struct{}, 1),
		start:         time.Now(),
		probes:        map[Target]*probe{},
		byReal:        map[netip.Addr]map[*probe]bool{},
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
// afterwards, to be remembered for [Monitor.Restore].
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

func closeChecker(c Checker) {
	if closer, ok := c.(io.Closer); ok {
		_ = closer.Close() // what a checker holds is memory and map entries
	}
}

// brokenChecker stands in for a checker that could not be built: the real is down
// with that reason.
type brokenChecker struct{ err error }

func (b brokenChecker) Check(context.Context) error { return fmt.Errorf("check: %w", b.err) }
