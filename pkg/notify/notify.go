package notify

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// Defaults and bounds.
const (
	DefaultInterval = 10 * time.Second
	maxSubjects     = 4096        // things that can have news at once
	maxQueue        = 1024        // messages that can wait for one way of telling
	grace           = time.Second // for what is queued when Run is to end: a stop does not wait for the outside
)

// Options say whom to tell, and how. Empty ones tell nobody.
type Options struct {
	Exec     []string      // commands without a shell: a path, or a path and arguments separated by blanks
	SMTP     SMTP          // no Server, no mail
	Webhook  string        // URL; "" = none
	Host     string        // name of this director; default the host's
	Interval time.Duration // at least this long between two mails or posts about one thing, a tenth of it about a VRRP role; default [DefaultInterval]
	Log      *slog.Logger  // hears of messages that could not be delivered

	// Undelivered hears of them, too: where to, the message in a line, and
	// why. It must not wait. nil = only the log does.
	Undelivered func(to, message string, err error)
}

// SMTP says how mail is sent: in plain text, as to a local mail server. No
// Server, no mail.
type SMTP struct {
	Server string // host:port
	From   string
	To     []string
}

// Counters count messages per way of telling, over all ways.
type Counters struct {
	Delivered uint64
	Failed    uint64 // given up after the last attempt
	Dropped   uint64 // no room in a queue
}

// Notifier tells of events. Its methods may be called from any goroutine.
type Notifier struct {
	host     string
	interval time.Duration
	log      *slog.Logger
	outlets  []*outlet
	commands *commands
	programs [][]string // that are run for every event

	undelivered func(to, message string, err error)

	delivered, failed, dropped atomic.Uint64

	mu       sync.Mutex
	subjects map[subject]*news
	changed  chan struct{} // holds one token: there may be something to send
}

// news is what is known of one subject since the last message about it.
type news struct {
	pending  *message  // the latest state, not sent yet
	free     time.Time // when the next message may go
	lastSent string    // the state in the last message, or the one before all messages
}

// New makes a notifier; it tells nothing until Run. An error names the
// option that cannot work.
func New(o Options) (*Notifier, error) {
	n := &Notifier{
		host:     o.Host,
		interval: o.Interval,
		log:      o.Log, undelivered: o.Undelivered,
		subjects: map[subject]*news{},
		changed:  make(chan struct{}, 1),
	}
	if n.host == "" {
		n.host, _ = os.Hostname() // a message without a host is better than none
	}
	n.host = guard.Text(n.host)
	if n.interval <= 0 {
		n.interval = DefaultInterval
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.log = n.log.With("component", "notify")
	n.commands = newCommands(n.host, n.report)
	for _, command := range o.Exec {
		argv := strings.Fields(command)
		if len(argv) == 0 {
			return nil, fmt.Errorf("notify exec %q: no command", command)
		}
		if _, err := guard.Trusted(argv[0]); err != nil {
			n.log.Warn("program will not be run as it is", "error", err)
		}
		n.programs = append(n.programs, argv)
	}
	if o.SMTP.Server != "" {
		m, err := newMailer(o.SMTP)
		if err != nil {
			return nil, err
		}
		n.add(m)
	}
	if o.Webhook != "" {
		w, err := newWebhook(o.Webhook)
		if err != nil {
			return nil, err
		}
		n.add(w)
	}
	return n, nil
}

func (n *Notifier) add(s sender) {
	n.outlets = append(n.outlets, &outlet{
		sender: s, queue: make(chan message, maxQueue), interval: n.interval, stopping: make(chan struct{}),
	})
}

// Counters reports what became of the messages.
func (n *Notifier) Counters() Counters {
	return Counters{n.delivered.Load(), n.failed.Load(), n.dropped.Load()}
}

// Notify takes an event and returns at once. Programs are run for it in turn.
// For mail and webhook, events about one thing that cannot be told yet become
// one, from the first state to the last.
func (n *Notifier) Notify(e Event) {
	e = e.clean()
	if len(n.programs) > 0 {
		e.Commands = slices.Concat(e.Commands, n.programs)
	}
	if !n.commands.add(e) {
		n.dropped.Add(1)
	}
	if len(n.outlets) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.subjects[e.subject()]
	if s == nil {
		if len(n.subjects) >= maxSubjects {
			n.dropped.Add(uint64(len(n.outlets)))
			return
		}
		s = &news{lastSent: e.Old}
		n.subjects[e.subject()] = s
	}
	m := &message{Event: e, host: n.host, changes: 1}
	if s.pending != nil {
		m.Old, m.changes = s.pending.Old, s.pending.changes+1
	}
	s.pending = m
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Run tells until ctx ends, and then has a second to tell what is left.
// It must be called once; it returns nil.
func (n *Notifier) Run(ctx context.Context) error {
	// Messages on their way outlive ctx by the grace.
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var workers sync.WaitGroup
	for _, o := range n.outlets {
		workers.Go(func() { o.work(sending, n.report) })
	}
	workers.Go(func() { n.commands.run(ctx, sending) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-timer.C:
		case <-n.changed:
		case <-ctx.Done():
		}
		timer.Reset(n.dispatch(time.Now(), false))
	}
	n.dispatch(time.Now(), true)
	for _, o := range n.outlets {
		close(o.stopping)
		close(o.queue)
	}
	last := time.AfterFunc(grace, cancel)
	defer last.Stop()
	workers.Wait()
	return nil
}

// dispatch queues every message that may go, or all of them, in the order in
// which things happened. It returns the time until the next one may go.
func (n *Notifier) dispatch(now time.Time, all bool) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := time.Hour
	var ready []message
	for key, s := range n.subjects {
		if wait := s.free.Sub(now); wait > 0 && !all {
			next = min(next, wait)
			continue
		}
		// What is back where the last message left it is no news, and what
		// was quiet for an interval is forgotten.
		if s.pending == nil || s.pending.New == s.lastSent {
			delete(n.subjects, key)
			continue
		}
		ready = append(ready, *s.pending)
		pause := n.pause(key.kind)
		n.subjects[key] = &news{lastSent: s.pending.New, free: now.Add(pause)}
		next = min(next, pause)
	}
	slices.SortStableFunc(ready, func(a, b message) int { return a.Time.Compare(b.Time) })
	for _, m := range ready {
		n.enqueue(m)
	}
	return next
}

// pause is how long nothing is told of a thing after a message about it. A
// role cannot change faster than VRRP's timers let it, and who acts on it
// must not be late.
func (n *Notifier) pause(k Kind) time.Duration {
	if k == VRRP {
		return n.interval / 10
	}
	return n.interval
}

func (n *Notifier) enqueue(m message) {
	for _, o := range n.outlets {
		select {
		case o.queue <- m:
		default:
			n.dropped.Add(1)
		}
	}
}
