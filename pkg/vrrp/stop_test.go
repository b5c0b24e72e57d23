package vrrp

import (
	"slices"
	"testing"
	"time"
)

func TestGracefulStop(t *testing.T) {
	s, a, b := pairUp(t, prio(150), prio(100))
	begin := s.since()
	gap := false
	s.watch = func(s *sim) { gap = gap || !a.held[0] && !b.held[0] }
	s.stop(a)
	if !slices.Equal(a.said, []string{"Advertise{Priority:0}"}) {
		t.Errorf("stop said %v, want only the resignation", a.said)
	}
	if !a.held[0] {
		t.Error("the VIP is gone at once")
	}
	s.run(sec)
	if gap {
		t.Error("there was a moment without anyone who holds the VIP")
	}
	if m := s.masters(0); !slices.Equal(m, []int{1}) || a.held[0] {
		t.Errorf("masters %v, the stopped one holds: %v", m, a.held[0])
	}
	if got, want := when(s, "0")-begin, sec*156/256; got < want || got > want+10*time.Millisecond {
		t.Errorf("handed over after %s, want the backup's skew %s", got, want)
	}
	if got := lastChange(s, "0"); got != "0.0 MASTER→INIT: stopped, 10.99.0.2 has taken over" {
		t.Errorf("last change %q", got)
	}
}

func TestStopAlone(t *testing.T) {
	s := newSim(1)
	n := s.add(prio(100))
	s.start(n)
	s.run(5 * sec)
	begin := s.since()
	s.stop(n)
	s.step(n, n.group[0], Heard{From: addrB, Priority: 0, Interval: sec}) // leaving as well: no successor
	s.step(n, n.group[0], Rival{})
	if n.said != nil {
		t.Errorf("a resigned master said %v", n.said)
	}
	s.run(3 * sec)
	if got, want := when(s, "0")-begin, sec+busyTime; got != want || n.held[0] {
		t.Errorf("over after %s (holds: %v), want the longest skew and a takeover: %s", got, n.held[0], want)
	}
	s.stop(n)
	if n.said != nil {
		t.Errorf("a second stop said %v", n.said)
	}
}

// Whom nobody follows may leave its VIPs for its own next start; whom somebody
// follows may not.
func TestStopLeavesVIPsIfAlone(t *testing.T) {
	s := newSim(1)
	n := s.add(prio(100))
	s.start(n)
	s.run(5 * sec)
	s.step(n, n.group[0], Stop{LeaveIfAlone: true})
	s.run(3 * sec)
	if !n.held[0] || n.group[0].Role() != Init {
		t.Errorf("alone: holds %v, role %s", n.held[0], n.group[0].Role())
	}

	s, a, b := pairUp(t, prio(150), prio(100))
	s.step(a, a.group[0], Stop{LeaveIfAlone: true})
	s.run(3 * sec)
	if a.held[0] || !b.held[0] {
		t.Errorf("with a successor: holds %v, the successor %v", a.held[0], b.held[0])
	}
}

// However short adverts are, a successor may need its time: it is waited for.
func TestStopWaitsForASlowSuccessor(t *testing.T) {
	quick := prio(254)
	quick.Version, quick.AdvertInterval = 3, 40*time.Millisecond
	s := newSim(1)
	n := s.add(quick)
	s.start(n)
	s.run(5 * sec)
	s.step(n, n.group[0], Stop{LeaveIfAlone: true})
	s.run(busyTime - time.Millisecond)
	s.step(n, n.group[0], Heard{From: addrB, Priority: 253, Interval: quick.AdvertInterval})
	if n.held[0] {
		t.Errorf("%q, and the VIPs are still held beside the successor", lastChange(s, "0"))
	}
}

func TestStopOfABackup(t *testing.T) {
	s, _, b := pairUp(t, prio(150), prio(100))
	s.stop(b)
	if got := b.group[0].Role(); got != Init {
		t.Errorf("role %s after the stop", got)
	}
}

// The data path of a master that has resigned serves until its VIPs are off, or left to
// the next start: a lease that ends with the wait would be over before either.
func TestLeaseOutlivesTheWaitForASuccessor(t *testing.T) {
	for _, every := range []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 100 * time.Millisecond, 150 * time.Millisecond, sec, 40 * sec} {
		cfg := prio(100)
		cfg.Version, cfg.AdvertInterval = 3, every
		l, v, _ := deaf(t, cfg)
		var lease time.Duration
		l.opts.Lease = func(_ string, d time.Duration) { lease = d }
		v.m.role, v.m.active = Master, true
		now := time.Now()
		l.step(v, Stop{LeaveIfAlone: true}, now)
		if wait := v.m.stopBy.Sub(now); lease < wait+busyTime {
			t.Errorf("adverts every %s: serves for %s, waits for %s", every, lease, wait)
		}
	}
}
