package notify

import (
	"context"
	"maps"
	"sync"
)

// Bounds of the commands that events carry.
const (
	maxRunning     = 16      // that run at a time
	maxWithCommand = 1 << 16 // subjects
)

// commands runs the commands that events carry: those of one subject one
// after the other, of many subjects at the same time. What happens to a subject
// while its commands run becomes one event, the latest; nothing is run where the
// subject is back in the state that was told last.
type commands struct {
	report  func(to sender, m message, err error)
	host    string
	execute func(context.Context, message) // runs the commands of an event
	ready   chan struct{}                  // holds one token: there may be something to run

	mu      sync.Mutex
	waiting []subject // with an event, in the order in which they came
	lines   map[subject]*commandLine
	running int
}

// commandLine is what is known of one subject.
type commandLine struct {
	next      *message // not run yet
	state     string   // that was told last, or the one before all that was told
	isRunning bool
}

func newCommands(host string, report func(sender, message, error)) *commands {
	c := &commands{report: report, host: host, ready: make(chan struct{}, 1), lines: map[subject]*commandLine{}}
	c.execute = c.runAll
	return c
}

// add takes an event and returns at once. It reports whether there is room.
func (c *commands) add(e Event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := e.subject()
	l := c.lines[key]
	switch {
	case l == nil && len(e.Commands) == 0:
		return true
	case l == nil && !c.makeRoom():
		return false
	case l == nil:
		l = &commandLine{state: e.Old}
		c.lines[key] = l
	}
	m := &message{Event: e, host: c.host, changes: 1}
	if l.next != nil {
		m.Old, m.changes = l.next.Old, l.next.changes+1
	} else {
		c.waiting = append(c.waiting, key)
	}
	l.next = m
	c.wake()
	return true
}

// makeRoom forgets subjects of which nothing runs or waits if there are too many. It
// reports whether there is room for one more.
func (c *commands) makeRoom() bool {
	if len(c.lines) < maxWithCommand {
		return true
	}
	if len(c.waiting)+c.running >= maxWithCommand {
		return false
	}
	maps.DeleteFunc(c.lines, func(_ subject, l *commandLine) bool { return l.next == nil && !l.isRunning })
	return true
}

func (c *commands) wake() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// run runs commands until ctx ends, and then what is waiting until sending
// ends.
func (c *commands) run(ctx, sending context.Context) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		for _, m := range c.take() {
			workers.Go(func() {
				c.execute(sending, m)
				c.finish(m.subject())
			})
		}
		if ctx.Err() != nil && c.isIdle() {
			return
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			if c.isIdle() {
				return
			}
			select {
			case <-c.ready:
			case <-sending.Done():
				c.giveUp(sending.Err())
				return
			}
		}
	}
}

// giveUp reports what is waiting as not delivered.
func (c *commands) giveUp(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.waiting {
		m := *c.lines[key].next
		for _, argv := range m.Commands {
			c.report(&hook{argv: argv}, m, why)
		}
	}
	c.waiting = nil
}

// take gives the messages whose commands may run now.
func (c *commands) take() []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ready []message
	var passed []subject // that have to wait on, while others behind them need not
	n := 0
	for ; n < len(c.waiting) && c.running < maxRunning; n++ {
		key := c.waiting[n]
		l := c.lines[key]
		if l.isRunning {
			passed = append(passed, key)
			continue
		}
		m := *l.next
		l.next = nil
		if m.New == l.state {
			continue
		}
		l.state, l.isRunning = m.New, true
		c.running++
		ready = append(ready, m)
	}
	// Of thousands that wait, most stay where they are.
	n -= len(passed)
	copy(c.waiting[n:], passed)
	c.waiting = c.waiting[n:]
	return ready
}

// finish says that the commands of a subject have ended.
func (c *commands) finish(key subject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines[key].isRunning = false
	c.running--
	c.wake()
}

// isIdle reports whether nothing runs and nothing waits.
func (c *commands) isIdle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running == 0 && len(c.waiting) == 0
}

// runAll runs the commands of a message, one after the other.
func (c *commands) runAll(ctx context.Context, m message) {
	for _, argv := range m.Commands {
		h := &hook{argv: argv}
		c.report(h, m, deliver(ctx, h, m))
	}
}
