package bgp

import (
	"fmt"
	"time"
)

// Damping of what comes and goes: addresses, and sessions with routers.
const (
	freeFlaps  = 5               // in [flapWindow], after which waits grow
	flapWindow = 5 * time.Minute // how long an end is remembered
	maxHold    = time.Minute     // the longest wait
)

// flaps are the ends of something that comes and goes, within the last flapWindow.
type flaps []time.Time

// forget drops ends that are too long ago to count.
func (f *flaps) forget(now time.Time) {
	for len(*f) > 0 && now.Sub((*f)[0]) >= flapWindow {
		*f = (*f)[1:]
	}
}

func (f flaps) isFlapping() bool { return len(f) > freeFlaps }

// hold is how long it is to stay away, where a rare end costs usual.
func (f flaps) hold(usual time.Duration) time.Duration {
	switch {
	case len(f) == 0:
		return 0
	case !f.isFlapping():
		return usual
	}
	return min(usual<<min(len(f)-freeFlaps, 10), max(maxHold, usual))
}

// describe says that it flaps, for people; ended is what an end of it is called.
func (f flaps) describe(ended string) string {
	return fmt.Sprintf("flapping, %s %d times within %s", ended, len(f), flapWindow)
}
