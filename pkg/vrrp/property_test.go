package vrrp

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// genHosts draws two or three hosts, of one or two segments each.
func genHosts(t *rapid.T, s *sim) {
	segments := rapid.IntRange(1, 2).Draw(t, "segments")
	v3 := rapid.Bool().Draw(t, "v3")
	for range rapid.IntRange(2, 3).Draw(t, "hosts") {
		cfg := prio(uint8(rapid.SampledFrom([]int{1, 100, 100, 150, 254, 255}).Draw(t, "priority")), func(i *Instance) {
			i.NoPreempt = rapid.Bool().Draw(t, "nopreempt")
			i.PreemptDelay = time.Duration(rapid.IntRange(0, 2).Draw(t, "preempt delay")) * 2500 * time.Millisecond
			i.StartupDelay = time.Duration(rapid.IntRange(0, 1).Draw(t, "start-up delay")) * 2 * sec
			if v3 {
				i.Version, i.AuthPass = 3, ""
			}
		})
		cfgs := []Instance{cfg}
		if segments == 2 {
			cfgs = append(cfgs, cfg)
		}
		n := s.add(cfgs...)
		n.take = time.Duration(rapid.IntRange(0, 20).Draw(t, "take")) * time.Millisecond
	}
}

// upset does one of the things that happen to hosts and networks.
func upset(t *rapid.T, s *sim) {
	n := s.nodes[rapid.IntRange(0, len(s.nodes)-1).Draw(t, "host")]
	other := s.nodes[rapid.IntRange(0, len(s.nodes)-1).Draw(t, "other")]
	switch rapid.SampledFrom([]string{"start", "kill", "restart", "stop", "cut", "heal", "fault", "well"}).Draw(t, "what") {
	case "start":
		s.start(n)
	case "kill":
		s.kill(n)
	case "restart":
		s.kill(n)
		s.start(n)
	case "stop":
		if n.alive {
			s.stop(n)
			life := n.life
			s.after(3*sec, func() {
				if n.life == life {
					s.kill(n)
				}
			})
		}
	case "cut":
		s.cut[pair(n.id, other.id)] = true
	case "heal":
		delete(s.cut, pair(n.id, other.id))
	case "fault":
		if n.alive {
			s.step(n, n.group[0], Condition{Fault: "drawn", Self: n.addr})
		}
	case "well":
		if n.alive {
			s.step(n, n.group[0], Condition{Self: n.addr})
		}
	}
	s.run(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
}

// Whatever happened: once the network is quiet and the hosts are well, there
// is exactly one master on every segment, the same one, nobody else holds a
// VIP, nothing changes any more, and with preemption it is one of the
// highest priority.
func TestConvergence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(rapid.Uint64().Draw(t, "seed"))
		genHosts(t, s)
		s.loss = rapid.Float64Range(0, 0.9).Draw(t, "loss")
		s.dup = rapid.Float64Range(0, 0.5).Draw(t, "dup")
		s.delay = time.Duration(rapid.IntRange(1, 5000).Draw(t, "delay")) * time.Millisecond
		for range rapid.IntRange(0, 12).Draw(t, "upsets") {
			upset(t, s)
		}
		s.loss, s.dup, s.cut = 0, 0, map[[2]int]bool{}
		s.run(s.delay) // what is under way arrives
		s.delay = time.Millisecond
		for _, n := range s.nodes {
			if !n.alive || n.group[0].Role() == Init || n.group[0].stopping {
				s.kill(n)
				s.start(n)
			}
			s.step(n, n.group[0], Condition{Self: n.addr})
		}
		s.run(30 * sec)
		settled := len(s.log)
		s.run(30 * sec)
		if len(s.log) != settled {
			t.Fatalf("changes after 30 s of quiet:\n%s", strings.Join(s.log, "\n"))
		}
		checkOneMaster(t, s)
	})
}

func checkOneMaster(t *rapid.T, s *sim) {
	first := s.masters(0)
	for seg := range s.nodes[0].group {
		m := s.masters(seg)
		if len(m) != 1 || m[0] != first[0] {
			t.Fatalf("segment %d: masters %v:\n%s", seg, m, strings.Join(s.log, "\n"))
		}
		for _, n := range s.nodes {
			if n.held[seg] != (n.id == m[0]) {
				t.Fatalf("segment %d: master is %d, host %d holds the VIP: %v", seg, m[0], n.id, n.held[seg])
			}
			better := n.group[seg].Priority() > s.nodes[m[0]].group[seg].Priority()
			if better && !n.cfgs[seg].NoPreempt {
				t.Fatalf("segment %d: host %d has a higher priority than master %d:\n%s", seg, n.id, m[0], strings.Join(s.log, "\n"))
			}
		}
	}
}

// On a network that delivers, be it late or twice, two masters that hear each
// other are never both there for longer than one advert (and its way).
func TestNoTwoMasters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(rapid.Uint64().Draw(t, "seed"))
		genHosts(t, s)
		s.dup = rapid.Float64Range(0, 0.5).Draw(t, "dup")
		s.delay = time.Duration(rapid.IntRange(0, 50).Draw(t, "delay")) * time.Millisecond
		limit := sec + 2*s.delay
		since := map[string]time.Time{}
		failed := ""
		s.watch = func(s *sim) {
			for seg := range s.nodes[0].cfgs {
				for a := range s.nodes {
					for b := range a {
						key := fmt.Sprint(seg, b, a)
						if !rivals(s, seg, a, b) {
							delete(since, key)
						} else if from, ok := since[key]; !ok {
							since[key] = s.now
						} else if s.now.Sub(from) > limit && failed == "" {
							failed = fmt.Sprintf("hosts %d and %d are both master of segment %d from %s to %s", b, a, seg, from.Sub(simStart), s.since())
						}
					}
				}
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "upsets") {
			upset(t, s)
		}
		s.run(5 * sec)
		if failed != "" {
			t.Fatalf("%s:\n%s", failed, strings.Join(s.log, "\n"))
		}
	})
}

// On a network that loses what it likes, one advert that arrives is enough:
// the worse of two masters gives way at once, and the better one answers and
// announces itself, so that the next one that arrives does it.
func TestOneAdvertEndsRivalry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(rapid.Uint64().Draw(t, "seed"))
		genHosts(t, s)
		s.loss = rapid.Float64Range(0, 0.9).Draw(t, "loss")
		s.dup = rapid.Float64Range(0, 0.5).Draw(t, "dup")
		s.delay = time.Duration(rapid.IntRange(1, 2000).Draw(t, "delay")) * time.Millisecond
		failed := ""
		s.onHear = func(n *simNode, seg int, in Heard, before Role, acts []string) {
			m := n.group[seg]
			better := in.Priority > m.Priority() || in.Priority == m.Priority() && n.addr.Less(in.From)
			switch {
			case before != Master || failed != "":
			case better && m.Role() == Master:
				failed = fmt.Sprintf("host %d is still master after %+v", n.id, in)
			case !better && m.Active() && !m.stopping && !slices.Contains(acts, "Announce{}"):
				failed = fmt.Sprintf("host %d did not announce itself after %+v: %v", n.id, in, acts)
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "upsets") {
			upset(t, s)
		}
		s.run(5 * sec)
		if failed != "" {
			t.Fatalf("%s, at %s:\n%s", failed, s.since(), strings.Join(s.log, "\n"))
		}
	})
}

// rivals reports whether both hosts act as masters and hear each other. One
// that has resigned waits for the other on purpose and says nothing.
func rivals(s *sim, seg, a, b int) bool {
	for _, id := range []int{a, b} {
		n := s.nodes[id]
		if !n.alive || !n.group[seg].Active() || n.group[seg].stopping {
			return false
		}
	}
	return !s.cut[pair(a, b)]
}
