package neigh

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// CannotAsk says why this host can ask a real nothing now, through no fault
// of the real: there is no way to it, or no watched address at all answers on
// the interface of the way. It is nil if the real may be judged by its
// silence. One address alone on an interface is judged: there is nothing to
// compare it with.
func (r *Resolver) CannotAsk(real netip.Addr) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.entries[real]
	switch {
	case !ok || e.Local || e.Pending:
		return nil
	case e.Err != "" && !e.Silent:
		return fmt.Errorf("no way to %s: %s", real, e.Err)
	case r.silent[e.IfIndex]:
		return fmt.Errorf("nothing answers on %s", e.Device)
	}
	return nil
}

// AddrsOf lists the watched addresses that were found at a MAC, in order.
func (r *Resolver) AddrsOf(mac MAC) []netip.Addr {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var addrs []netip.Addr
	for a, e := range r.entries {
		if e.MAC == mac && mac != (MAC{}) && !e.Gateway.IsValid() {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// fewOthers is how many others are asked when one real misses a question: one
// answer is enough to show that the interface works, and each that misses one
// has as many others asked.
const fewOthers = 8

// askOthers asks some other reals on the interface of one whose check has
// failed, or that has missed a question: if none of them answers, it is the
// interface and not the real. They are asked beside it and not after it, since
// checks go on meanwhile.
func (l *loop) askOthers(t *target, now time.Time) {
	n := 0
	for _, o := range l.targets {
		if o == t || o.path.ifindex != t.path.ifindex || o.unanswered > 0 || o.due.IsZero() {
			continue
		}
		o.askSoon(now)
		if n++; n == fewOthers {
			return
		}
	}
}

// wakeInterface has everything on a silent interface asked at once, because
// some station has spoken there; once a second at most.
func (l *loop) wakeInterface(ifindex int, now time.Time) time.Time {
	if now.Sub(l.wokenAt) < retryInterval {
		return time.Time{}
	}
	l.wokenAt = now
	for _, t := range l.targets {
		if t.path.ifindex == ifindex && !t.due.IsZero() {
			t.due = now
		}
	}
	return now
}

// updateSilence finds out on which interfaces no watched address answers. When
// that ends, everything there is asked at once; it reports whether there is
// something to ask.
func (l *loop) updateSilence(now time.Time) (hasEnded bool) {
	l.silenceStale = false
	silent := l.silentInterfaces()
	l.mu.Lock()
	l.silent = silent
	l.mu.Unlock()
	for _, t := range l.targets {
		is := silent[t.path.ifindex]
		if is == t.allSilent {
			continue
		}
		t.allSilent = is
		if !is && t.mac == (MAC{}) && !t.due.IsZero() {
			t.due, hasEnded = now, true
		}
		l.publishEntry(t)
	}
	return hasEnded
}

func (l *loop) silentInterfaces() map[int]bool {
	type count struct{ all, missed int }
	counts := map[int]count{}
	for _, t := range l.targets {
		if t.path.err != "" || t.path.local || t.path.fixed != (MAC{}) || t.path.gateway.IsValid() {
			continue
		}
		c := counts[t.path.ifindex]
		c.all++
		if t.isMissed() {
			c.missed++
		}
		counts[t.path.ifindex] = c
	}
	silent := map[int]bool{}
	for i, c := range counts {
		if c.all > 1 && c.missed == c.all {
			silent[i] = true
		}
	}
	return silent
}
