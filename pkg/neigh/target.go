package neigh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Timing of the questions. A real that dies is unresolved within
// refresh + tries × retry.
const (
	refreshInterval = 10 * time.Second       // between questions while it answers
	retryInterval   = time.Second            // until the next one while an answer is missing
	maxUnanswered   = 6                      // unanswered questions that make a real unresolved: two refreshes of three
	firstRetry      = 100 * time.Millisecond // while it is not resolved; doubles
	lastRetry       = 5 * time.Second        // up to this
	silentAfter     = 3                      // unanswered questions before it is said to be silent
)

// target is what is known of one real: a state machine without I/O.
type target struct {
	addr       netip.Addr
	path       path
	mac        MAC
	unanswered int       // questions since the last answer
	due        time.Time // when to ask again; zero = never
	sendErr    string    // why it could not be asked
}

// setPath sets the way to the real. A MAC survives only on the same way.
func (t *target) setPath(p path, now time.Time) {
	if !t.path.sameWay(p) {
		t.mac, t.unanswered, t.sendErr = MAC{}, 0, ""
		t.due = time.Time{}
		if p.err == "" && !p.local {
			t.due = now
		}
	}
	t.path = p
}

// nextQuestion counts a question that is due and plans the next one. It returns the
// station to ask; the zero MAC means all.
func (t *target) nextQuestion(now time.Time) MAC {
	if t.mac != (MAC{}) && t.unanswered >= maxUnanswered {
		t.mac, t.unanswered = MAC{}, silentAfter
	}
	t.unanswered++
	if t.mac == (MAC{}) {
		t.due = now.Add(min(lastRetry, firstRetry<<min(t.unanswered-1, 10)))
		return MAC{}
	}
	t.due = now.Add(retryInterval)
	if t.unanswered > 1 {
		return MAC{} // the one that had the address is silent: another may have it
	}
	return t.mac
}

// setMAC takes an answer, or anything else that the real itself sent. It
// returns the MAC that the real had before.
func (t *target) setMAC(mac MAC, now time.Time) (before MAC) {
	before, t.mac = t.mac, mac
	t.unanswered, t.sendErr = 0, ""
	// Spread, so that a thousand reals do not answer at once.
	t.due = now.Add(refreshInterval - rand.N(refreshInterval/5))
	return before
}

// askSoon makes the next question due now and open to all: something else says
// that the real has moved.
func (t *target) askSoon(now time.Time) {
	if t.due.IsZero() || t.unanswered > 0 {
		return // it cannot be asked, or is being asked
	}
	t.unanswered, t.due = 1, now
}

// isUnreachable reports whether there is no way to the real, and no answer to wait for.
func (t *target) isUnreachable() bool {
	return !t.path.local && t.mac == (MAC{}) && (t.path.err != "" || t.sendErr != "" || t.unanswered > silentAfter)
}

// entry is what the rest of lvx may know.
func (t *target) entry() Entry {
	p := t.path
	e := Entry{MAC: t.mac, IfIndex: p.ifindex, Device: p.device, SrcMAC: p.mac, MTU: p.mtu, Local: p.local, Err: p.err}
	switch {
	case e.Err != "" || e.Local || e.MAC != MAC{}:
	case t.sendErr != "":
		e.Err = t.sendErr
	case t.unanswered > silentAfter:
		e.Err = fmt.Sprintf("%s does not answer ARP on %s", t.addr, t.path.device)
	default:
		e.Err, e.Pending = fmt.Sprintf("%s is being looked for on %s", t.addr, t.path.device), true
	}
	return e
}
