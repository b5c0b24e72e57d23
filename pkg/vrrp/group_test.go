package vrrp

import (
	"slices"
	"testing"
	"time"
)

// two is a host in two segments that fails over as one.
func two(p uint8) []Instance {
	grouped := func(name string) func(*Instance) {
		return func(i *Instance) { i.Name, i.SyncGroup = name, "G" }
	}
	return []Instance{prio(p, grouped("inside")), prio(p, grouped("outside"))}
}

func groupPair(t *testing.T) (s *sim, a, b *simNode) {
	s = newSim(1)
	a, b = s.add(two(150)...), s.add(two(100)...)
	s.start(a)
	s.start(b)
	s.run(5 * sec)
	wantMasters(t, s, 0, 0)
	return s, a, b
}

// wantMasters expects one master on each segment.
func wantMasters(t *testing.T, s *sim, want ...int) {
	t.Helper()
	for seg, id := range want {
		if m := s.masters(seg); !slices.Equal(m, []int{id}) {
			t.Errorf("segment %d: masters %v, want %d", seg, m, id)
		}
	}
}

func TestGroupTakesOverTogether(t *testing.T) {
	s, a, _ := groupPair(t)
	s.kill(a)
	s.run(5 * sec)
	wantMasters(t, s, 1, 1)
	s.start(a)
	s.run(8 * sec)
	wantMasters(t, s, 0, 0)
}

func TestGroupSharesAFault(t *testing.T) {
	s, a, b := groupPair(t)
	s.step(a, a.group[1], Condition{Fault: "eth1 is down", Self: a.addr})
	for _, m := range a.group {
		if m.Role() != Fault {
			t.Errorf("%s is %s", m.cfg.Name, m.Role())
		}
	}
	if got := a.group[0].why; got != "outside: eth1 is down" {
		t.Errorf("why the inside is down: %q", got)
	}
	s.run(sec)
	wantMasters(t, s, 1, 1)
	s.step(b, b.group[0], Condition{Fault: "eth0 is down", Self: b.addr})
	s.step(b, b.group[1], Condition{Fault: "eth1 is down", Self: b.addr})
	s.step(b, b.group[0], Condition{Self: b.addr})
	if got := b.group[0].Role(); got != Fault {
		t.Errorf("role %s while the fellow has a fault", got)
	}
	s.step(b, b.group[1], Condition{Self: b.addr})
	if x, y := b.group[0].Role(), b.group[1].Role(); x != Backup || y != Backup {
		t.Errorf("roles %s and %s after the last fault", x, y)
	}
}

// A member that hears no master must not take over while its fellow does
// hear one: the master would win it back and so on for ever.
func TestGroupWaitsForAll(t *testing.T) {
	s, _, b := groupPair(t)
	m := b.group[0]
	s.step(b, m, Tick{})
	s.now = m.Deadline()
	s.step(b, m, Tick{})
	if b.said != nil || m.Role() != Backup || !m.Deadline().IsZero() {
		t.Errorf("said %q, role %s", b.said, m.Role())
	}
	s.step(b, m, Heard{From: addrA, Priority: 150, Interval: sec})
	if m.Deadline().IsZero() {
		t.Error("the master is back, and the member does not watch it")
	}
}

func TestGroupYieldsTogether(t *testing.T) {
	s, a, _ := groupPair(t)
	s.step(a, a.group[0], Heard{From: addrB, Priority: 200, Interval: sec})
	want := []string{
		"Advertise{Priority:150}", "Change{Old:MASTER New:BACKUP Why:10.99.0.2 has priority 200}", "Drop{Linger:true}",
		"Advertise{Priority:0}", "Change{Old:MASTER New:BACKUP Why:group follows inside}", "Drop{Linger:true}",
	}
	if !slices.Equal(a.said, want) {
		t.Errorf("said %q, want %q", a.said, want)
	}
}

func TestGroupStopsOneByOne(t *testing.T) {
	s, a, b := groupPair(t)
	gap := false
	s.watch = func(s *sim) {
		for seg := range 2 {
			gap = gap || !a.held[seg] && !b.held[seg]
		}
	}
	s.stop(a)
	s.run(3 * sec)
	wantMasters(t, s, 1, 1)
	if gap {
		t.Error("there was a moment without anyone who holds a VIP")
	}
}

// Priorities that contradict each other make no ping-pong.
func TestGroupsWithCrossedPriorities(t *testing.T) {
	s := newSim(1)
	a, b := two(150), two(150)
	a[1].Priority, b[0].Priority = 100, 100
	na, nb := s.add(a...), s.add(b...)
	s.start(na)
	s.run(10 * sec)
	s.start(nb)
	s.run(60 * sec)
	wantMasters(t, s, 0, 0)
	if changes := len(s.log); changes != 6 {
		t.Errorf("%d transitions, want 6: two starts and one takeover\n%q", changes, s.log)
	}
	s.cut[pair(0, 1)] = true
	s.run(10 * sec)
	s.cut = map[[2]int]bool{}
	s.run(time.Minute)
	if x, y := s.masters(0), s.masters(1); len(x) != 1 || !slices.Equal(x, y) {
		t.Errorf("masters %v and %v a minute after a partition", x, y)
	}
}
