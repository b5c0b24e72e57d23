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
	refresh    = 10 * time.Second       // between questions while it answers
	retry      = time.Second            // until the next one while an answer is missing
	tries      = 6                      // unanswered questions that make a real unresolved: two refreshes of three
	firstRetry = 100 * time.Millisecond // while it is not resolved; doubles
	lastRetry  = 5 * time.Second        // up to this
	patience   = 3                      // unanswered questions before it is said to be silent
)

// target is what is known of one real: a state machine without I/O.
type target struct {
	addr  netip.Addr
	path  path
	mac   MAC
	asked int       // questions since the last answer
	next  time.Time // when to ask again; zero = never
	fault string    // why it could not be asked
}

// route sets the way to the real. A MAC survives only on the same way.
func (t *target) route(p path, now time.Time) {
	if !t.path.same(p) {
		t.mac, t.asked, t.fault = MAC{}, 0, ""
		t.next = time.Time{}
		if p.why == "" && !p.local {
			t.next = now
		}
	}
	t.path = p
}

// ask counts a question that is due and plans the next one. It returns the
// station to ask; the zero MAC means all.
func (t *target) ask(now time.Time) MAC {
	if t.mac != (MAC{}) && t.asked >= tries {
		t.mac, t.asked = MAC{}, patience
	}
	t.asked++
	if t.mac == (MAC{}) {
		t.next = now.Add(min(lastRetry, firstRetry<<min(t.asked-1, 10)))
		return MAC{}
	}
	t.next = now.Add(retry)
	if t.asked > 1 {
		return MAC{} // the one that had the address is silent: another may have it
	}
	return t.mac
}

// heard takes an answer, or anything else that the real itself sent. It
// returns the MAC that the real had before.
func (t *target) heard(mac MAC, now time.Time) (before MAC) {
	before, t.mac = t.mac, mac
	t.asked, t.fault = 0, ""
	// Spread, so that a thousand reals do not answer at once.
	t.next = now.Add(refresh - rand.N(refresh/5))
	return before
}

// doubt makes the next question due now and open to all: something else says
// that the real has moved.
func (t *target) doubt(now time.Time) {
	if t.next.IsZero() || t.asked > 0 {
		return // it cannot be asked, or is being asked
	}
	t.asked, t.next = 1, now
}

// failed reports whether there is no way to the real, and no answer to wait for.
func (t *target) failed() bool {
	return !t.path.local && t.mac == (MAC{}) && (t.path.why != "" || t.fault != "" || t.asked > patience)
}

// entry is what the rest of lvx may know.
func (t *target) entry() Entry {
	p := t.path
	e := Entry{MAC: t.mac, IfIndex: p.ifindex, Device: p.device, SrcMAC: p.mac, MTU: p.mtu, Local: p.local, Err: p.why}
	switch {
	case e.Err != "" || e.Local || e.MAC != MAC{}:
	case t.fault != "":
		e.Err = t.fault
	case t.asked > patience:
		e.Err = fmt.Sprintf("%s does not answer ARP on %s", t.addr, t.path.device)
	default:
		e.Err, e.Pending = fmt.Sprintf("%s is being looked for on %s", t.addr, t.path.device), true
	}
	return e
}
