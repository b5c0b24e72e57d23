package vrrp

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const sec = time.Second

func prio(p uint8, edits ...func(*Instance)) Instance {
	i := sample(func(i *Instance) { i.Priority = p })
	for _, e := range edits {
		e(&i)
	}
	return i
}

func nopreempt(i *Instance) { i.NoPreempt = true }

// pairUp makes two hosts, the first with priority 150, and lets it become
// master.
func pairUp(t *testing.T, a, b Instance) (s *sim, na, nb *simNode) {
	t.Helper()
	s = newSim(1)
	na, nb = s.add(a), s.add(b)
	s.start(na)
	s.start(nb)
	s.run(5 * sec)
	if m := s.masters(0); !slices.Equal(m, []int{0}) {
		t.Fatalf("masters %v at the start, want the first:\n%s", m, strings.Join(s.log, "\n"))
	}
	return s, na, nb
}

// lastChange is the last transition of host n, without the time.
func lastChange(s *sim, n string) string {
	for _, l := range slices.Backward(s.log) {
		if _, what, _ := strings.Cut(l, " "); strings.HasPrefix(what, n+".") {
			return what
		}
	}
	return ""
}

// when is the time of the last transition of host n.
func when(s *sim, n string) time.Duration {
	for _, l := range slices.Backward(s.log) {
		if at, what, _ := strings.Cut(l, " "); strings.HasPrefix(what, n+".") {
			d, _ := time.ParseDuration(at)
			return d
		}
	}
	return 0
}

func TestMasterDownInterval(t *testing.T) {
	// 3 adverts + (256-150)/256 s, as keepalived: 3.40 to 3.47 s.
	s, _, _ := pairUp(t, prio(150), prio(100))
	if got, want := when(s, "0"), 3*sec+sec*106/256; got != want {
		t.Errorf("first master after %s, want %s", got, want)
	}
	died := s.since()
	s.kill(s.nodes[0])
	s.run(5 * sec)
	if m := s.masters(0); !slices.Equal(m, []int{1}) {
		t.Errorf("masters %v after the first died", m)
	}
	if got := when(s, "1") - died; got < 2*sec || got > 3*sec+sec*156/256+s.delay {
		t.Errorf("takeover %s after the death, want at most 3 adverts and the skew", got)
	}
}

func TestAdvertsKeepTheirBeat(t *testing.T) {
	s := newSim(1)
	n := s.add(prio(200))
	var at []time.Duration
	s.onSend = func(int, Advertise) { at = append(at, s.since()) }
	s.start(n)
	s.run(4 * sec)
	m := n.group[0]
	for range 20 { // every tick is late by up to 0.9 s
		s.now = m.Deadline().Add(time.Duration(s.rand.Int64N(int64(900 * time.Millisecond))))
		s.step(n, m, Tick{})
	}
	for i, d := range at {
		if late := (d - at[0]) % sec; late > 900*time.Millisecond {
			t.Errorf("advert %d is %s off schedule", i, late)
		}
	}
	if want := at[0] + 20*sec; m.nextAdvert.Sub(simStart) < want {
		t.Errorf("next advert at %s, want the schedule to go on at %s or later", m.nextAdvert.Sub(simStart), want)
	}
	s.now = m.Deadline().Add(10*sec + 300*time.Millisecond) // a long pause is not made up for
	before := len(at)
	s.run(0)
	if len(at) != before+1 || m.nextAdvert.Sub(s.now) != 700*time.Millisecond {
		t.Errorf("%d adverts after a pause of 10.3 s, next in %s; want 1 and 700ms", len(at)-before, m.nextAdvert.Sub(s.now))
	}
}

func TestPreemption(t *testing.T) {
	tests := []struct {
		name string
		a    Instance
		want int           // the master in the end
		at   time.Duration // when the first is back as master, after its start
	}{
		{"preempt", prio(150), 0, 3*sec + sec*106/256},
		{"nopreempt", prio(150, nopreempt), 1, 0},
		{"equal priority does not preempt", prio(100), 1, 0},
		{"delay", prio(150, func(i *Instance) { i.PreemptDelay = 7 * sec }), 0, 7 * sec},
		{"a delay shorter than the dead interval", prio(150, func(i *Instance) { i.PreemptDelay = sec }), 0, 3*sec + sec*106/256},
		{"start-up delay", prio(150, func(i *Instance) { i.StartupDelay = 9 * sec }), 0, 9 * sec},
		{"address owner", prio(255), 0, 0},
		{"address owner with start-up delay", prio(255, func(i *Instance) { i.StartupDelay = 2 * sec }), 0, 2 * sec},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(1)
			a, b := s.add(tt.a), s.add(prio(100))
			s.start(b)
			s.run(5 * sec)
			begin := s.since()
			gap := false
			s.watch = func(s *sim) { gap = gap || !a.held[0] && !b.held[0] }
			s.start(a)
			s.run(20 * sec)
			if m := s.masters(0); !slices.Equal(m, []int{tt.want}) {
				t.Fatalf("masters %v, want %d:\n%s", m, tt.want, strings.Join(s.log, "\n"))
			}
			if gap {
				t.Error("there was a moment without anyone who holds the VIP")
			}
			if got := when(s, "0") - begin; tt.want == 0 && (got < tt.at || got > tt.at+sec+s.delay) {
				t.Errorf("preempted after %s, want %s", got, tt.at)
			}
		})
	}
}

func TestPreemptDelayEndsWithTheMaster(t *testing.T) {
	s := newSim(1)
	a, b := s.add(prio(150, func(i *Instance) { i.PreemptDelay = 60 * sec })), s.add(prio(100))
	s.start(b)
	s.run(5 * sec)
	s.start(a)
	s.run(10 * sec)
	s.kill(b)
	s.run(4 * sec)
	if m := s.masters(0); !slices.Equal(m, []int{0}) {
		t.Errorf("masters %v, want the first as soon as the other is dead", m)
	}
}

func TestTieOfPrioritiesGoesToTheHigherAddress(t *testing.T) {
	s := newSim(1)
	a, b := s.add(prio(100)), s.add(prio(100))
	s.cut[pair(0, 1)] = true
	s.start(a)
	s.start(b)
	s.run(5 * sec)
	if m := s.masters(0); len(m) != 2 {
		t.Fatalf("masters %v of a cut segment", m)
	}
	s.cut = map[[2]int]bool{}
	s.run(2 * sec)
	if m := s.masters(0); !slices.Equal(m, []int{1}) {
		t.Errorf("masters %v, want the one with the higher address", m)
	}
}

// A healed partition: whoever speaks first, the winner announces itself
// again after it has been heard of.
func TestHeal(t *testing.T) {
	for _, first := range []int{0, 1} {
		s, _, b := pairUp(t, prio(150), prio(100))
		s.cut[pair(0, 1)] = true
		s.run(10 * sec)
		if m := s.masters(0); len(m) != 2 {
			t.Fatalf("masters %v of a cut segment", m)
		}
		for s.nodes[first].group[0].Deadline().After(s.nodes[1-first].group[0].Deadline()) {
			s.run(100 * time.Millisecond)
		}
		s.cut = map[[2]int]bool{}
		announced := false
		lost := false
		s.watch = func(s *sim) {
			lost = lost || b.group[0].Role() == Backup
			announced = announced || lost && slices.Contains(s.nodes[0].said, "Announce{}")
		}
		s.run(1200 * time.Millisecond)
		if m := s.masters(0); !slices.Equal(m, []int{0}) || !announced {
			t.Errorf("host %d first: masters %v, winner announced after the loser knew: %v", first, m, announced)
		}
	}
}

func TestYieldAnswersOnce(t *testing.T) {
	s, a, _ := pairUp(t, prio(150), prio(100))
	m := a.group[0]
	s.step(a, m, Heard{From: addrB, Priority: 200, Interval: sec})
	want := []string{"Advertise{Priority:150}", "Change{Old:MASTER New:BACKUP Why:10.99.0.2 has priority 200}", "Drop{Linger:true}"}
	if !slices.Equal(a.said, want) {
		t.Errorf("said %q, want %q", a.said, want)
	}
	s.step(a, m, Heard{From: addrB, Priority: 200, Interval: sec})
	if a.said != nil {
		t.Errorf("said %q on the second", a.said)
	}
}

// A master that stood still for longer than its lease yields to a worse one, without
// a word that would renew the lease; the owner of the addresses does not, and an
// advert late is no pause.
func TestMasterThatStoodStillYields(t *testing.T) {
	late := Heard{From: addrB, Priority: 100, Interval: sec}
	for _, c := range []struct {
		name    string
		pause   time.Duration
		in      Heard
		prio    uint8
		isStill bool
	}{
		{"pause", 5 * sec, late, 150, true},
		{"late", 3 * sec, late, 150, false},
		{"resigned", 5 * sec, Heard{From: addrB, Interval: sec}, 150, false},
		{"owner", 5 * sec, late, 255, false},
	} {
		s, a, _ := pairUp(t, prio(c.prio), prio(100))
		m := a.group[0]
		s.step(a, m, Tick{})
		s.now = m.lastAdvert.Add(c.pause)
		s.step(a, m, c.in)
		want := []string{"Resign{}", "Change{Old:MASTER New:BACKUP Why:stood still for 5s, 10.99.0.2 has taken over}", "Drop{Linger:true}"}
		if got := slices.Equal(a.said, want); got != c.isStill {
			t.Errorf("%s: said %q", c.name, a.said)
		}
		if c.isStill {
			s.run(5 * sec) // the other one had yielded to adverts that were on their way
			if got := s.masters(0); !slices.Equal(got, []int{0}) {
				t.Errorf("%s: masters %v in the end", c.name, got)
			}
		}
	}
}

// A reload that shortens the interval of adverts, and with it what a lease is from then on,
// makes no pause of the time since the last advert.
func TestShorterIntervalIsNoPause(t *testing.T) {
	s, a, _ := pairUp(t, prio(150), prio(100))
	m := a.group[0]
	s.step(a, m, Tick{})
	s.now = m.lastAdvert.Add(900 * time.Millisecond)
	s.step(a, m, Configure{prio(150, func(i *Instance) { i.AdvertInterval = 100 * time.Millisecond })})
	s.step(a, m, Heard{From: addrB, Priority: 100, Interval: 100 * time.Millisecond})
	if m.Role() != Master {
		t.Errorf("said %q", a.said)
	}
}

func TestMasterAnswers(t *testing.T) {
	s, a, _ := pairUp(t, prio(150), prio(100))
	m := a.group[0]
	s.run(m.Deadline().Sub(s.now) + 400*time.Millisecond)
	scheduled := m.Deadline()
	for _, p := range []uint8{0, 100} {
		s.step(a, m, Heard{From: addrB, Priority: p, Interval: sec})
		if want := []string{"Advertise{Priority:150}", "Announce{}"}; !slices.Equal(a.said, want) {
			t.Errorf("priority %d: said %q, want %q", p, a.said, want)
		}
		s.step(a, m, Heard{From: addrB, Priority: p, Interval: sec})
		if want := []string{"Announce{}"}; !slices.Equal(a.said, want) {
			t.Errorf("priority %d again at once: said %q, want %q", p, a.said, want)
		}
		s.run(200 * time.Millisecond)
	}
	s.step(a, m, Heard{From: a.addr, Priority: 255, Interval: sec})
	if a.said != nil {
		t.Errorf("its own advert made it say %q", a.said)
	}
	s.step(a, m, Rival{})
	if want := []string{"Announce{}"}; !slices.Equal(a.said, want) {
		t.Errorf("a rival in ARP: said %q, want %q", a.said, want)
	}
	if m.Deadline() != scheduled {
		t.Errorf("the schedule moved by %s", m.Deadline().Sub(scheduled))
	}
}

func TestRestartKeepsTheVIP(t *testing.T) {
	dead := 3*sec + sec*156/256
	for _, pause := range []time.Duration{0, 300 * time.Millisecond, sec, 2 * sec, 3 * sec, dead, 4 * sec, 20 * sec} {
		for _, resume := range []bool{false, true} {
			s, a, b := pairUp(t, prio(150), prio(100))
			gap := false
			s.watch = func(s *sim) { gap = gap || !a.held[0] && !b.held[0] }
			s.kill(a)
			s.run(pause)
			if resume && pause < 3*sec {
				s.restartResuming(a)
			} else {
				s.start(a)
			}
			s.run(12 * sec)
			if m := s.masters(0); !slices.Equal(m, []int{0}) || gap || b.held[0] {
				t.Errorf("back after %s (resume %v): masters %v, gap %v, backup holds %v\n%s",
					pause, resume, m, gap, b.held[0], strings.Join(s.log, "\n"))
			}
			if stayed := lastChange(s, "1") == "1.0 INIT→BACKUP: lvx started"; !stayed && (pause <= 300*time.Millisecond || resume && pause < 3*sec-s.delay) {
				t.Errorf("back after %s: the backup noticed: %s", pause, lastChange(s, "1"))
			}
		}
	}
}

// restartResuming starts n like a router that finds its lease still running.
func (s *sim) restartResuming(n *simNode) {
	n.alive, n.life = true, n.life+1
	n.group = Group{NewMachine(n.cfgs[0])}
	s.step(n, n.group[0], Start{Self: n.addr, Holding: true, Resume: true})
}

func TestFault(t *testing.T) {
	s, a, b := pairUp(t, prio(150), prio(100))
	m := a.group[0]
	s.step(a, m, Condition{Fault: "eth1 is down", Self: a.addr})
	want := []string{"Advertise{Priority:0}", "Change{Old:MASTER New:FAULT Why:eth1 is down}", "Drop{Linger:false}"}
	if !slices.Equal(a.said, want) {
		t.Errorf("said %q, want %q", a.said, want)
	}
	s.run(sec)
	if got := s.masters(0); !slices.Equal(got, []int{1}) {
		t.Errorf("masters %v a second after the fault", got)
	}
	if d := m.Deadline(); !d.IsZero() {
		t.Errorf("deadline %s in fault", d)
	}
	s.step(a, m, Condition{Self: a.addr})
	if m.Role() != Backup {
		t.Errorf("role %s after the fault", m.Role())
	}
	s.run(5 * sec)
	if got := s.masters(0); !slices.Equal(got, []int{0}) || b.held[0] {
		t.Errorf("masters %v after the fault is over", got)
	}
}

func TestFaultAtTheStart(t *testing.T) {
	s := newSim(1)
	n := s.add(prio(100))
	n.alive, n.group = true, Group{NewMachine(n.cfgs[0])}
	s.step(n, n.group[0], Condition{Fault: "no interface eth0"})
	s.step(n, n.group[0], Start{Holding: true})
	if want := []string{"Change{Old:INIT New:FAULT Why:no interface eth0}", "Drop{Linger:false}"}; !slices.Equal(n.said, want) {
		t.Errorf("said %q, want %q", n.said, want)
	}
}

func TestPenalty(t *testing.T) {
	s, a, _ := pairUp(t, prio(150), prio(100))
	s.step(a, a.group[0], Condition{Penalty: 60, Self: a.addr})
	if got := a.group[0].Priority(); got != 90 {
		t.Errorf("priority %d", got)
	}
	s.run(5 * sec)
	if got := s.masters(0); !slices.Equal(got, []int{1}) {
		t.Errorf("masters %v with priority 90 against 100", got)
	}
	for _, tt := range []struct {
		base    uint8
		penalty int
		want    uint8
	}{{100, 300, 1}, {100, -200, 254}, {255, 200, 255}, {100, 0, 100}} {
		m := NewMachine(prio(tt.base))
		m.step(Condition{Penalty: tt.penalty}, simStart)
		if got := m.Priority(); got != tt.want {
			t.Errorf("%d less %d is %d, want %d", tt.base, tt.penalty, got, tt.want)
		}
	}
}

// While something is waited for, a backup lets its time pass; then it takes
// over at once. VIPs that an earlier run has left are not waited with.
func TestWait(t *testing.T) {
	s := newSim(1)
	n := s.add(prio(100))
	s.start(n)
	m := n.group[0]
	s.step(n, m, Condition{Self: n.addr, Wait: "checks"})
	s.run(20 * sec)
	if got := s.masters(0); len(got) != 0 || !m.Deadline().IsZero() {
		t.Errorf("masters %v, next deadline %s", got, m.Deadline())
	}
	s.step(n, m, Condition{Self: n.addr})
	s.run(sec / 10)
	if got := s.masters(0); !slices.Equal(got, []int{0}) {
		t.Errorf("masters %v once nothing is waited for", got)
	}
	s.step(n, m, Condition{Self: n.addr, Wait: "checks"})
	s.run(5 * sec)
	if got := s.masters(0); !slices.Equal(got, []int{0}) {
		t.Errorf("masters %v: a master has nothing to wait for", got)
	}

	m = NewMachine(prio(100))
	g := Group{m}
	g.Step(m, Condition{Self: addrB, Wait: "checks"}, simStart)
	g.Step(m, Start{Self: addrB, Holding: true, Resume: true}, simStart)
	if m.Role() != Master {
		t.Errorf("role %s with the VIPs of an earlier run", m.Role())
	}
}

// A hold of preemption bears a worse master, and follows a silent one.
func TestBear(t *testing.T) {
	s := newSim(1)
	a, b := s.add(prio(150)), s.add(prio(100))
	s.start(b)
	s.run(5 * sec)
	s.start(a)
	m := a.group[0]
	s.step(a, m, Condition{Self: a.addr, Bear: "connections are not there yet"})
	s.run(20 * sec)
	if got := s.masters(0); !slices.Equal(got, []int{1}) {
		t.Errorf("masters %v while the better one bears the other", got)
	}
	s.step(a, m, Condition{Self: a.addr})
	s.run(5 * sec)
	if got := s.masters(0); !slices.Equal(got, []int{0}) {
		t.Errorf("masters %v after that", got)
	}

	s = newSim(1)
	a, b = s.add(prio(150)), s.add(prio(100))
	s.start(b)
	s.run(5 * sec)
	s.start(a)
	s.step(a, a.group[0], Condition{Self: a.addr, Bear: "connections are not there yet"})
	s.run(2 * sec)
	s.kill(b)
	s.run(4 * sec)
	if got := s.masters(0); !slices.Equal(got, []int{0}) {
		t.Errorf("masters %v after the death of the other", got)
	}
}

func TestFailedTakeover(t *testing.T) {
	s := newSim(1)
	n := s.add(prio(100))
	n.take = time.Hour
	s.start(n)
	s.run(4 * sec)
	m := n.group[0]
	s.step(n, m, Heard{From: addrB, Priority: 50, Interval: sec})
	if n.said != nil {
		t.Errorf("not ready, and said %q", n.said)
	}
	s.step(n, m, Failed{Err: errors.New("no such device")})
	if want := []string{"Change{Old:MASTER New:BACKUP Why:cannot serve: no such device}", "Drop{Linger:false}"}; !slices.Equal(n.said, want) {
		t.Errorf("said %q, want %q", n.said, want)
	}
	s.step(n, m, Ready{})
	if n.said != nil || m.Role() != Backup {
		t.Errorf("late readiness: said %q, role %s", n.said, m.Role())
	}
}

func TestConfigureUnderWay(t *testing.T) {
	s, a, b := pairUp(t, prio(150), prio(100))
	faster := prio(90, func(i *Instance) { i.AdvertInterval = 100 * time.Millisecond })
	s.step(a, a.group[0], Configure{Instance: faster})
	if !slices.Equal(a.said, []string{"Take{}"}) || a.group[0].Deadline().Sub(s.now) > 100*time.Millisecond {
		t.Errorf("said %q, next advert in %s", a.said, a.group[0].Deadline().Sub(s.now))
	}
	s.run(50 * time.Millisecond)
	if !a.group[0].Active() {
		t.Error("not active any more")
	}
	s.step(a, a.group[0], Failed{Err: errors.New("one address is refused")})
	if !a.group[0].Active() {
		t.Error("one address that cannot be added ends mastership")
	}
	s.step(b, b.group[0], Configure{Instance: prio(120)})
	s.run(5 * sec)
	if m := s.masters(0); !slices.Equal(m, []int{1}) {
		t.Errorf("masters %v after the priorities were swapped", m)
	}
}

func TestLearnsTheMastersInterval(t *testing.T) {
	v3 := func(d time.Duration) func(*Instance) {
		return func(i *Instance) { i.Version, i.AuthPass, i.AdvertInterval = 3, "", d }
	}
	s, a, _ := pairUp(t, prio(150, v3(sec)), prio(100, v3(100*time.Millisecond)))
	s.run(10 * sec)
	if m := s.masters(0); !slices.Equal(m, []int{0}) {
		t.Fatalf("masters %v of unequal intervals", m)
	}
	died := s.since()
	s.kill(a)
	s.run(5 * sec)
	if got := when(s, "1") - died; got < 2*sec+sec*156/256 {
		t.Errorf("took over after %s, want the master's interval to count", got)
	}
}
