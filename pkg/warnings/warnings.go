// Package warnings keeps what is wrong on this host right now, for people: one
// list behind the log, the status, the page and the metrics, so that all of
// them use the same words.
//
// A warning has a subject (what it is about), a text (what is wrong), a cure
// (what to do) and an end: whoever finds the cause reports it as long as it is
// there, and ends it when it is gone. Both are logged once. The package finds
// nothing by itself, keeps nothing on disk and does not remember what has
// ended: that is pkg/history's.
package warnings

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Warning is one thing that is wrong.
type Warning struct {
	Kind    string    `json:"kind"`           // a word that does not change, for alerts: "firewall", "not-stored"
	Subject string    `json:"subject"`        // what it is about: "VIP 192.0.2.100", "/var/lib/lvx/overrides.json"
	Text    string    `json:"text"`           // what is wrong, in a sentence
	Cure    string    `json:"cure,omitempty"` // what to do
	Note    bool      `json:"note,omitempty"` // it costs no traffic, now or later
	Since   time.Time `json:"since"`          // filled in by the registry
}

// isSame reports whether a and b are the same warning, whenever they began.
func isSame(a, b Warning) bool {
	a.Since, b.Since = time.Time{}, time.Time{}
	return a == b
}

// Registry is the list. Its methods may be called from any goroutine; none
// waits for anything but another of them.
type Registry struct {
	log *slog.Logger

	mu       sync.Mutex
	warnings []Warning
	onChange func(w Warning, began bool)
}

// New makes an empty registry. log hears of every begin and every end.
func New(log *slog.Logger) *Registry {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Registry{log: log.With("component", "warnings")}
}

// OnChange has f called for every warning that begins or ends. f must not
// wait, nor use the registry.
func (r *Registry) OnChange(f func(w Warning, began bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = f
}

// Replace makes found the warnings of a kind. Those that are known go on,
// others of the kind end.
func (r *Registry) Replace(kind string, found []Warning) {
	r.replace(func(w Warning) bool { return w.Kind == kind }, kind, found)
}

// Put makes w the only warning of its kind about its subject.
func (r *Registry) Put(w Warning) {
	r.replace(func(o Warning) bool { return o.Kind == w.Kind && o.Subject == w.Subject }, w.Kind, []Warning{w})
}

// End ends the warning of a kind about a subject, if there is one.
func (r *Registry) End(kind, subject string) {
	r.replace(func(o Warning) bool { return o.Kind == kind && o.Subject == subject }, kind, nil)
}

func (r *Registry) replace(isMeant func(Warning) bool, kind string, found []Warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var next, ended, began []Warning
	for _, w := range r.warnings {
		if isMeant(w) && !slices.ContainsFunc(found, func(f Warning) bool { f.Kind = kind; return isSame(f, w) }) {
			ended = append(ended, w)
			continue
		}
		next = append(next, w)
	}
	for _, f := range found {
		f.Kind = kind
		if slices.ContainsFunc(next, func(w Warning) bool { return isSame(f, w) }) {
			continue
		}
		if f.Since.IsZero() {
			f.Since = time.Now()
		}
		next, began = append(next, f), append(began, f)
	}
	slices.SortStableFunc(next, func(a, b Warning) int {
		if c := strings.Compare(a.Kind, b.Kind); c != 0 {
			return c
		}
		return strings.Compare(a.Subject, b.Subject)
	})
	r.warnings = next
	for _, w := range ended {
		r.report(w, false)
	}
	for _, w := range began {
		r.report(w, true)
	}
}

// report logs the begin or the end of a warning.
func (r *Registry) report(w Warning, began bool) {
	attrs := []any{"kind", w.Kind, "subject", w.Subject}
	if w.Cure != "" && began {
		attrs = append(attrs, "cure", w.Cure)
	}
	level, text := slog.LevelWarn, w.Text
	switch {
	case !began:
		level, text = slog.LevelInfo, "no longer: "+w.Text
	case w.Note:
		level = slog.LevelInfo
	}
	r.log.Log(context.Background(), level, text, attrs...) //nolint:sloglint // the warning is the message
	if r.onChange != nil {
		r.onChange(w, began)
	}
}

// List lists what is wrong now, by kind and subject.
func (r *Registry) List() []Warning {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.warnings)
}
