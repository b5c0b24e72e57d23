// Package history keeps the last things that happened to a director: what
// `lvx history` prints. Health, roles, reloads, operators' commands,
// adoptions, warnings.
//
// It is bounded (see [Size]) and survives a restart in a file, which a
// goroutine of its own writes: adding an event waits for no disk. It does not
// decide what is worth keeping, and nothing depends on what it has kept.
package history

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/guard"
)

// FileName is the name of the file in state_dir.
const FileName = "history.json"

// Size is how many events are kept: the newest ones.
const Size = 1000

// Kind is what an [Event] is about.
type Kind string

// The kinds of events, as `lvx history --kind` takes them.
const (
	Health   Kind = "health"   // a real or a service went up or down
	Role     Kind = "role"     // a VRRP instance changed its role
	Reload   Kind = "reload"   // the configuration was read again, or refused
	Route    Kind = "route"    // a BGP session, or a VIP that is announced by it
	BFD      Kind = "bfd"      // a BFD session of the file went up or down
	Operator Kind = "operator" // somebody gave a command
	Daemon   Kind = "daemon"   // start, adoption, stop
	Warning  Kind = "warning"  // a warning began or ended
	Notify   Kind = "notify"   // a message could not be delivered
)

// Kinds lists every [Kind].
func Kinds() []Kind {
	return []Kind{Health, Role, Route, BFD, Reload, Operator, Daemon, Warning, Notify}
}

// Event is one thing that happened.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	Subject string    `json:"subject"`       // what it happened to: "web", "172.25.0.12:80 of web", "VI_1"
	Text    string    `json:"text"`          // what happened
	UID     *uint32   `json:"uid,omitempty"` // who wanted it, if it was a command
}

// Filter says which events to list. The zero value lists all.
type Filter struct {
	Since   time.Time // not older
	Kind    Kind      // "" = any
	Subject string    // "" = any
}

// Choose lists those of events that match.
func (f Filter) Choose(events []Event) (chosen []Event) {
	for _, e := range events {
		if f.matches(e) {
			chosen = append(chosen, e)
		}
	}
	return chosen
}

func (f Filter) matches(e Event) bool {
	return !e.Time.Before(f.Since) && (f.Kind == "" || f.Kind == e.Kind) && (f.Subject == "" || f.Subject == e.Subject)
}

// Log is the history of one director. Its methods may be called from any
// goroutine.
type Log struct {
	path   string
	report func(error)

	mu      sync.Mutex
	events  []Event // oldest first
	changed chan struct{}
}

// New makes a history that is kept in the file at path; "" keeps it in memory
// only. report is called with an error when the file cannot be used, and with
// nil when it can be again; it must not wait.
func New(path string, report func(error)) *Log {
	if report == nil {
		report = func(error) {}
	}
	return &Log{path: path, report: report, changed: make(chan struct{}, 1)}
}

// Add takes an event; a zero time is now. It does not wait.
func (l *Log) Add(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Subject, e.Text = guard.Text(e.Subject), guard.Text(e.Text)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = bound(append(l.events, e))
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// bound keeps the newest events, in an array that does not grow for ever.
func bound(events []Event) []Event {
	if len(events) <= Size {
		return events
	}
	if len(events) < 2*Size {
		return events[len(events)-Size:]
	}
	return slices.Clone(events[len(events)-Size:])
}

// List lists the events that match, oldest first.
func (l *Log) List(f Filter) []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.Choose(l.events)
}

// Times of the writer.
const (
	writePause = time.Second // between two writes
	writeGrace = time.Second // for the last one
)

// Run reads what an earlier daemon has kept and writes what is added, until
// ctx ends. It returns nil.
func (l *Log) Run(ctx context.Context) error {
	if l.path == "" {
		<-ctx.Done()
		return nil
	}
	loaded := make(chan struct{})
	go func() { // may hang in a system call for ever
		l.load()
		close(loaded)
	}()
	select {
	case <-loaded:
	case <-ctx.Done():
		select {
		case <-loaded:
		case <-time.After(writeGrace):
			return nil // the disk hangs: what it holds must not be overwritten
		}
	}
	keeper := jsonfile.NewKeeper(l.path, 0o600, l.report)
	stop, done := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() { _ = keeper.Run(stop, writeGrace) }) // it returns nil
	for ctx.Err() == nil {
		select {
		case <-l.changed:
			_ = keeper.Put(l.List(Filter{})) // events are plain values
			select {
			case <-time.After(writePause):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}
	select {
	case <-l.changed:
		_ = keeper.Put(l.List(Filter{})) // as above
	default:
	}
	done()
	writer.Wait()
	return nil
}

// Read reads what a daemon has kept in a file, oldest first.
func Read(path string) ([]Event, error) {
	var old []Event
	if err := jsonfile.Read(path, &old); err != nil {
		return nil, err
	}
	for i := range old {
		old[i].Subject, old[i].Text = guard.Text(old[i].Subject), guard.Text(old[i].Text)
	}
	return old, nil
}

// load puts the events of an earlier daemon before those of this one.
func (l *Log) load() {
	old, err := Read(l.path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.report(err)
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = bound(slices.Concat(old, l.events))
}
