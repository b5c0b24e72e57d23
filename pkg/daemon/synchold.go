package daemon

import (
	"sync"
	"time"
)

// syncLimit is how long a director that could take over from a living master
// waits for connection sync at most.
const syncLimit = 30 * time.Second

const syncHoldReason = "connection sync is not in step yet"

// preemptionHold keeps this host from taking over from a master that lives,
// until it is released or limit has passed.
type preemptionHold func(why string, limit time.Duration) (release func())

// syncHold keeps this host from taking over from a living master while peers have
// yet to tell it of connections.
type syncHold struct {
	take preemptionHold // nil: nobody can take over

	mu      sync.Mutex
	release func() // nil: it does not hold
}

// anew holds for [syncLimit] from now on, whatever is left of that time, or was.
// Doubt makes what is compared by [syncHold.endIf] false first.
func (h *syncHold) anew(doubt func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	doubt()
	if h.take == nil {
		return
	}
	old := h.release
	h.release = h.take(syncHoldReason, syncLimit)
	if old != nil {
		old()
	}
}

// endIf ends the hold if peers have told everything, and reports whether they
// have.
func (h *syncHold) endIf(isInStep func() bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	is := isInStep()
	if is && h.release != nil {
		h.release()
		h.release = nil
	}
	return is
}

// end ends the hold.
func (h *syncHold) end() { h.endIf(func() bool { return true }) }
