package vrrp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// Defaults of [TrackExec], keepalived's.
const (
	DefaultTrackInterval = time.Second
	defaultCount         = 1
)

// pollInterval is the time between looks at tracked files and processes.
const pollInterval = 200 * time.Millisecond

// WithDefaults fills what the configuration left out.
func (t TrackExec) WithDefaults() TrackExec {
	if t.Interval == 0 {
		t.Interval = DefaultTrackInterval
	}
	if t.Timeout == 0 {
		t.Timeout = t.Interval
	}
	if t.Fall == 0 {
		t.Fall = defaultCount
	}
	if t.Rise == 0 {
		t.Rise = defaultCount
	}
	return t
}

// name is what the log and the status call a tracked thing.
func (t TrackExec) name() string    { return "exec " + guard.Text(strings.Join(t.Argv, " ")) }
func (t TrackFile) name() string    { return "file " + guard.Text(t.Path) }
func (t TrackProcess) name() string { return "process " + guard.Text(t.Name) }
func (t TrackBFD) name() string     { return "bfd " + t.Name }

// key distinguishes what has to be looked at; the weight does not count.
func (t TrackExec) key() string {
	return fmt.Sprintf("exec %q %s %s %d %d %v", t.Argv, t.Interval, t.Timeout, t.Fall, t.Rise, t.InitFail)
}

func (t TrackFile) key() string    { return "file " + t.Path }
func (t TrackBFD) key() string     { return "bfd " + t.Name }
func (t TrackProcess) key() string { return fmt.Sprintf("process %d %s", t.Quorum, t.Name) }

// reading is what was last seen of a tracked thing.
type reading struct {
	isKnown bool
	isGood  bool   // programs and processes
	number  int    // files
	why     string // why it is not good
}

// readings are all of them, by key.
type readings map[string]reading

// applyTo lets the tracked things of i count in its condition.
func (rs readings) applyTo(c *Condition, i Instance) {
	for _, t := range i.TrackExec {
		r := rs[t.key()]
		if !r.isKnown && !t.InitFail {
			c.Wait = t.name() + " has not ended yet"
			r.isGood = true // keepalived's assumption
		}
		r.weigh(c, t.Weight, t.IsReversed, t.name())
	}
	for _, t := range i.TrackProcesses {
		r := rs[t.key()]
		if !r.isKnown {
			c.Wait = t.name() + " has not been looked for yet"
			r.isGood = true
		}
		r.weigh(c, t.Weight, t.IsReversed, t.name())
	}
	for _, t := range i.TrackBFD {
		r, isKnown := rs[t.key()]
		if !isKnown {
			r.why = "down"
		}
		r.weigh(c, t.Weight, t.IsReversed, t.name())
	}
	for _, t := range i.TrackFiles {
		switch r := rs[t.key()]; {
		case t.IsReversed && t.Weight != 0:
			c.Penalty += r.number * t.Weight
		case t.Weight != 0:
			c.Penalty -= r.number * t.Weight
		case (r.number != 0) != t.IsReversed:
			c.weigh(0, fmt.Sprintf("%s holds %d", t.name(), r.number))
		}
	}
}

// weigh lets a weight count as keepalived does: one above 0 while all is well,
// one below 0 while it is not, and 0 is a fault. Reversed, a weight counts at the
// same time with the other sign, and all being well is the fault.
func (r reading) weigh(c *Condition, weight int, isReversed bool, name string) {
	switch {
	case isReversed && weight == 0:
		if r.isGood {
			c.weigh(0, name+": reversed, and all is well")
		}
	case isReversed && r.isGood == (weight > 0):
		c.Penalty += weight
	case isReversed:
	case r.isGood && weight > 0:
		c.Penalty -= weight
	case !r.isGood && weight <= 0:
		why := name
		if r.why != "" {
			why += ": " + r.why
		}
		c.weigh(weight, why)
	}
}

// trackers look at what instances track, each thing once.
type trackers struct {
	log     *slog.Logger
	changed func()

	running map[string]context.CancelFunc // by key; the controller's
	group   sync.WaitGroup

	mu       sync.Mutex
	readings readings
}

func newTrackers(log *slog.Logger, changed func()) *trackers {
	return &trackers{log: log, changed: changed, running: map[string]context.CancelFunc{}, readings: readings{}}
}

// set says what is tracked from now on. For no instances it waits until
// nothing is looked at any more.
func (t *trackers) set(instances []Instance) {
	wanted := map[string]func(context.Context){}
	for _, i := range instances {
		for _, x := range i.TrackExec {
			wanted[x.key()] = func(ctx context.Context) { t.followExec(ctx, x.WithDefaults(), x.key()) }
		}
		for _, x := range i.TrackFiles {
			wanted[x.key()] = func(ctx context.Context) { t.followFile(ctx, x) }
		}
		for _, x := range i.TrackProcesses {
			wanted[x.key()] = func(ctx context.Context) { t.followProcess(ctx, x) }
		}
	}
	for key, stop := range t.running {
		if wanted[key] == nil {
			stop()
			delete(t.running, key)
			t.mu.Lock()
			delete(t.readings, key)
			t.mu.Unlock()
		}
	}
	for key, follow := range wanted {
		if t.running[key] != nil {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		t.running[key] = stop
		t.group.Go(func() { follow(ctx) })
	}
	if len(instances) == 0 {
		t.group.Wait()
	}
}

func (t *trackers) snapshot() readings {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.readings)
}

// put notes what was seen, unless nobody wants to know any more.
func (t *trackers) put(ctx context.Context, key, name string, r reading) {
	t.mu.Lock()
	before := t.readings[key]
	if ctx.Err() != nil || before == r {
		t.mu.Unlock()
		return
	}
	t.readings[key] = r
	t.mu.Unlock()
	switch {
	case before.isKnown && before.isGood && !r.isGood:
		t.log.Warn("tracked thing fails", "tracked", name, "reason", r.why)
	case before.isKnown && !before.isGood && r.isGood:
		t.log.Info("tracked thing is well again", "tracked", name)
	case before.number != r.number:
		t.log.Info("tracked file has changed", "tracked", name, "number", r.number)
	}
	t.changed()
}

// followExec runs a program again and again.
func (t *trackers) followExec(ctx context.Context, x TrackExec, key string) {
	state := execState{TrackExec: x, isGood: !x.InitFail}
	ticker := time.NewTicker(x.Interval)
	defer ticker.Stop()
	for {
		t.put(ctx, key, x.name(), state.add(x.run(ctx)))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (t TrackExec) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	_, err := guard.Program{Argv: t.Argv, As: guard.Unprivileged()}.Run(ctx)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("timeout after %s", t.Timeout)
	}
	return err
}

// execState applies fall and rise to the outcomes of a program.
type execState struct {
	TrackExec
	isGood        bool
	passes, fails int // in a row
}

func (s *execState) add(err error) reading {
	why := ""
	if err != nil {
		why = guard.Text(err.Error())
	}
	switch {
	case err == nil:
		s.passes, s.fails = s.passes+1, 0
		s.isGood = s.isGood || s.passes >= s.Rise
	case !errors.Is(err, guard.ErrUnending): // which says nothing of what is tracked
		s.passes, s.fails = 0, s.fails+1
		s.isGood = s.isGood && s.fails < s.Fall
	}
	if s.isGood {
		why = ""
	}
	return reading{isKnown: true, isGood: s.isGood, why: why}
}

// followFile looks at a number in a file. What cannot be read holds what it
// held before.
func (t *trackers) followFile(ctx context.Context, x TrackFile) {
	complained := false
	poll(ctx, func() {
		n, err := guard.ReadNumber(ctx, x.Path)
		if err == nil {
			complained = false
			t.put(ctx, x.key(), x.name(), reading{isKnown: true, isGood: true, number: n})
			return
		}
		if !complained {
			complained = true
			t.log.Warn("tracked file is not readable, what it held before counts", "file", x.Path, "error", err)
		}
	})
}

func (t *trackers) followProcess(ctx context.Context, x TrackProcess) {
	want := max(x.Quorum, 1)
	poll(ctx, func() {
		n, err := countProcesses(x.Name, want)
		r := reading{isKnown: true, isGood: n >= want}
		switch {
		case err != nil:
			r.why = err.Error()
		case !r.isGood:
			r.why = fmt.Sprintf("%d running, want %d", n, want)
		}
		t.put(ctx, x.key(), x.name(), r)
	})
}

// poll looks at once and then regularly.
func poll(ctx context.Context, look func()) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		look()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
