package notify

import (
	"fmt"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// Kind is what an [Event] is about.
type Kind string

// The kinds of events.
const (
	Real     Kind = "real"
	Service  Kind = "service"
	VRRP     Kind = "vrrp"
	Director Kind = "director"
)

// Event is a change that people are told of.
type Event struct {
	Kind    Kind
	Name    string    // what changed: "172.25.0.12:80", "web", "VI_1"
	Service string    // the service that a real belongs to; "" = none
	Old     string    // the state before
	New     string    // the state now
	Reason  string    // why, for people
	Time    time.Time // zero = now

	Commands [][]string // the subject's own hooks for New: argument vectors, run besides what [Options] say
}

// subject identifies what an event is about; the rate limit counts by it.
type subject struct {
	kind          Kind
	service, name string
}

func (e Event) subject() subject { return subject{e.Kind, e.Service, e.Name} }

// clean bounds every text of e.
func (e Event) clean() Event {
	e.Kind = Kind(guard.Text(string(e.Kind)))
	for _, s := range []*string{&e.Name, &e.Service, &e.Old, &e.New, &e.Reason} {
		*s = guard.Text(*s)
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	return e
}

// message is an event on its way to people.
type message struct {
	Event
	host    string
	changes int      // how many changes it stands for
	lines   []string // of a summary: one for each message in it
}

// text is the message in one line: "real 172.25.0.12:80 of web: up -> down:
// tcp connect: refused (failed 3 times)".
func (m message) text() string {
	if len(m.lines) > 0 {
		_, first, _ := strings.Cut(m.lines[0], " ") // without its time
		return fmt.Sprintf("%d messages: %s; and more", len(m.lines), first)
	}
	s := string(m.Kind) + " " + m.Name
	if m.Kind == Real && m.Service != "" {
		s += " of " + m.Service
	}
	s += ": " + m.Old + " -> " + m.New
	if m.Reason != "" {
		s += ": " + m.Reason
	}
	if m.changes > 1 {
		s += fmt.Sprintf(" (%d changes)", m.changes)
	}
	return s
}

// service is the service that the message is about, if any.
func (m message) service() string {
	if m.Kind == Service {
		return m.Name
	}
	return m.Service
}

// real is the real that the message is about, if any.
func (m message) real() string {
	if m.Kind == Real {
		return m.Name
	}
	return ""
}
