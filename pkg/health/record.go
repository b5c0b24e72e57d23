package health

import (
	"errors"
	"fmt"
	"time"
)

// Flap damping. A real that went down FlapLimit times within FlapWindow is
// kept down until it has passed every probe for FlapHold: its connections
// would be torn down again and again otherwise. Coming up clears the account.
const (
	FlapLimit  = 5
	FlapWindow = 5 * time.Minute
	FlapHold   = time.Minute
)

// record is the account of one target: rise, fall and flapping. It is a pure
// state machine; time comes from outside.
type record struct {
	Status
	rise, fall   int
	wasUp        bool        // it was up at some time: rise counts, a first pass does not
	lastFailure  string      // the last failure
	downs        []time.Time // the last FlapLimit times it went down
	passingSince time.Time   // since when it passes, while it is flapping
}

func newRecord(s Spec) record { return record{rise: s.Rise, fall: s.Fall} }

// restore starts the account from what was known before.
func (r *record) restore(s Status) {
	r.Status = s
	r.Fails, r.Passes = 0, 0
	r.wasUp = s.Known
	r.lastFailure = s.Reason
}

// addResult enters the result of a probe that ended at now, and reports whether
// the listener has to hear of it.
func (r *record) addResult(now time.Time, took time.Duration, err error) bool {
	before := r.Status
	if errors.Is(err, ErrNotAsked) {
		r.Reason, r.NotAsked = err.Error(), true
		return !before.NotAsked
	}
	r.Known, r.NotAsked, r.Last, r.Took = true, false, now, took
	if err == nil {
		r.addPass(now)
	} else {
		r.addFailure(now, err)
	}
	if r.Up != before.Up || !before.Known {
		r.Since = now
	}
	return differs(r.Status, before)
}

// differs reports whether a listener has to hear of the way from b to a.
func differs(a, b Status) bool {
	return a.Up != b.Up || a.Known != b.Known || a.Flapping != b.Flapping || a.NotAsked != b.NotAsked || a.Weight != b.Weight
}

func (r *record) addPass(now time.Time) {
	r.Fails = 0
	r.Passes++
	if r.Passes == 1 {
		r.passingSince = now
	}
	switch {
	case r.Up:
	case r.Flapping && now.Sub(r.passingSince) < FlapHold:
		r.Reason = fmt.Sprintf("flapping: up after passing for %s (%s so far)", FlapHold, now.Sub(r.passingSince).Round(time.Second))
		return
	case r.wasUp && r.Passes < r.rise:
		r.Reason = fmt.Sprintf("passed %s, up after %d; before: %s", times(r.Passes), r.rise, r.lastFailure)
		return
	}
	if r.Flapping {
		r.Flapping, r.downs = false, nil
	}
	r.Up, r.wasUp = true, true
	r.Reason, r.lastFailure = "", ""
}

func (r *record) addFailure(now time.Time, err error) {
	r.Passes = 0
	r.Fails++
	r.lastFailure = err.Error()
	if r.Up && r.Fails >= r.fall {
		r.Up = false
		r.addDown(now)
	}
	switch {
	case r.Up:
		r.Reason = fmt.Sprintf("%s (failed %s, down after %d)", r.lastFailure, times(r.Fails), r.fall)
	case r.wasUp:
		r.Reason = fmt.Sprintf("%s (failed %s)", r.lastFailure, times(min(r.Fails, r.fall)))
	default:
		r.Reason = r.lastFailure
	}
	if r.Flapping {
		r.Reason = fmt.Sprintf("flapping, down %d times in %s: %s", FlapLimit, FlapWindow, r.lastFailure)
	}
}

// times says how often.
func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// addDown keeps the account of downs.
func (r *record) addDown(now time.Time) {
	r.downs = append(r.downs, now)
	if n := len(r.downs); n > FlapLimit {
		r.downs = r.downs[n-FlapLimit:]
	}
	r.Flapping = len(r.downs) == FlapLimit && now.Sub(r.downs[0]) <= FlapWindow
}
