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

// verifyGap is the time between questions to a station whose address another
// station claims, and verifyTime how long it may take to answer: a stray frame
// must not move a real, and a real that has moved must not wait long.
const (
	verifyGap  = 60 * time.Millisecond
	verifyTime = 200 * time.Millisecond
)

// target is what is known of one real: a state machine without I/O.
type target struct {
	addr       netip.Addr
	isRouter   bool // nobody watches it, but reals are behind it
	path       path
	mac        MAC
	unanswered int       // questions since the last answer
	due        time.Time // when to ask again; zero = never
	sendErr    string    // why it could not be asked

	rival    MAC       // claims the address, while the station at mac is asked whether it still has it
	verified time.Time // with rival: when that station counts as gone
	urgent   bool      // something failed: the next answer must come soon
	warned   time.Time // when a claim was last logged

	last      MAC  // where the real was when an interface of this host failed
	lastOn    int  // and on which
	allSilent bool // nothing answers on the interface
}

// setPath sets the way to the real. A MAC survives only on the same way.
func (t *target) setPath(p path, now time.Time) {
	if !t.path.sameWay(p) {
		if t.mac != (MAC{}) && p.isLink {
			t.last, t.lastOn = t.mac, t.path.ifindex
		}
		t.mac, t.unanswered, t.sendErr, t.rival, t.urgent = MAC{}, 0, "", MAC{}, false
		t.due, t.allSilent = time.Time{}, false
		switch {
		case p.err != "" || p.local || p.gateway.IsValid():
		case p.fixed != MAC{}:
			t.mac = p.fixed
		default:
			// Where it was before it most probably still is: it is used at
			// once, and asked at once.
			if t.lastOn == p.ifindex {
				t.mac, t.urgent = t.last, t.last != MAC{}
			}
			t.due = now
		}
	}
	t.path = p
}

// nextQuestion counts a question that is due and plans the next one. It
// returns the station to ask; the zero MAC means all.
func (t *target) nextQuestion(now time.Time) MAC {
	if t.mac != (MAC{}) && t.unanswered >= maxUnanswered {
		t.mac, t.unanswered, t.urgent = MAC{}, silentAfter, false
	}
	t.unanswered++
	switch {
	case t.mac == MAC{}:
		t.due = now.Add(min(lastRetry, firstRetry<<min(t.unanswered-1, 10)))
		return MAC{}
	case t.rival != MAC{}:
		t.due = now.Add(min(verifyGap, t.verified.Sub(now)))
		return t.mac
	case t.urgent && t.unanswered <= 2:
		t.due = now.Add(verifyTime)
	default:
		t.due = now.Add(retryInterval)
	}
	if t.unanswered > 1 {
		return MAC{} // the station that had the address is silent: another may have it
	}
	return t.mac
}

// outcome is what became of a station's word that it has the real's address.
type outcome uint8

const (
	unchanged outcome = iota // it was known
	resolved                 // the real had no MAC
	moved                    // the real had another MAC, and no station has it there any more
	doubted                  // the station that had the address is asked first
	rejected                 // the station that had the address has answered: the claim was false
)

// heard takes what a station says: that it has the address. A station that
// does not have it until now is believed at once only if the one that had it
// is silent.
func (t *target) heard(mac MAC, now time.Time) outcome {
	switch {
	case mac == t.mac && t.rival != MAC{}:
		t.setMAC(mac, now)
		return rejected
	case mac == t.mac:
		t.setMAC(mac, now)
		return unchanged
	case t.mac == MAC{}:
		t.setMAC(mac, now)
		return resolved
	case t.rival == MAC{} && t.unanswered > 1:
		t.setMAC(mac, now)
		return moved
	}
	return t.doubtMAC(mac, now)
}

// doubtMAC begins to ask the station at mac whether it still has the address
// that a rival claims.
func (t *target) doubtMAC(rival MAC, now time.Time) outcome {
	if t.rival == (MAC{}) {
		t.verified, t.due, t.unanswered = now.Add(verifyTime), now, 0
	}
	t.rival = rival
	return doubted
}

// endDoubt believes the rival once the station that had the address has been
// silent for long enough.
func (t *target) endDoubt(now time.Time) bool {
	if t.rival == (MAC{}) || now.Before(t.verified) {
		return false
	}
	t.setMAC(t.rival, now)
	return true
}

func (t *target) setMAC(mac MAC, now time.Time) {
	t.mac, t.rival, t.unanswered, t.sendErr, t.urgent = mac, MAC{}, 0, "", false
	// Spread, so that a thousand reals do not answer at once.
	t.due = now.Add(refreshInterval - rand.N(refreshInterval/5))
}

// askSoon makes the next question due now: something else says that the real
// may not be where it was. It reports whether it did: a real that cannot be
// asked, or is being asked, is left alone.
func (t *target) askSoon(now time.Time) bool {
	if t.due.IsZero() || t.mac == (MAC{}) || t.unanswered > 0 || t.rival != (MAC{}) {
		return false
	}
	t.urgent, t.due = true, now
	return true
}

// isMissed reports whether a question to the station that had the address, and
// one to all, have had no answer.
func (t *target) isMissed() bool {
	return t.mac == MAC{} && t.unanswered > silentAfter || t.unanswered > 1 && t.rival == MAC{}
}

// isUnreachable reports whether there is no way to the real, and no answer to wait for.
func (t *target) isUnreachable() bool {
	return !t.path.local && t.mac == (MAC{}) && (t.path.err != "" || t.sendErr != "" || t.unanswered > silentAfter)
}

// entry is what the rest of lvx may know.
func (t *target) entry() Entry {
	p := t.path
	e := Entry{OwnLink: p.isLink, SrcAddr: p.srcIP, MAC: t.mac, IfIndex: p.ifindex, Device: p.device, SrcMAC: p.mac, MTU: p.mtu, Local: p.local, Err: p.err}
	switch {
	case e.Err != "" || e.Local || e.MAC != MAC{}:
	case t.sendErr != "":
		e.Err = t.sendErr
	case t.unanswered > silentAfter:
		e.Err, e.Silent = fmt.Sprintf("%s does not answer %s on %s", t.addr.WithZone(""), t.protocol(), t.path.device), true
		e.OwnLink = t.allSilent
	default:
		e.Err, e.Pending = fmt.Sprintf("%s is being looked for on %s", t.addr.WithZone(""), t.path.device), true
	}
	return e
}

// protocol is what the real is asked by.
func (t *target) protocol() string {
	if t.addr.Is6() {
		return "neighbour discovery"
	}
	return "ARP"
}
