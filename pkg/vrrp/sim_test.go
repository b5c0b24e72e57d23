package vrrp

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// sim is a segment (or several, for groups) with routers on it, run on a
// virtual clock. What the machines say is really delivered, late, twice or
// not at all, as chance has it.
type sim struct {
	now    time.Time
	rand   *rand.Rand
	queue  events
	seq    int
	nodes  []*simNode
	loss   float64
	dup    float64
	delay  time.Duration            // longest
	cut    map[[2]int]bool          // pairs that do not hear each other
	watch  func(s *sim)             // after every event
	log    []string                 // transitions
	onSend func(n int, a Advertise) // if set, sees every advert

	onHear func(n *simNode, seg int, in Heard, before Role, acts []string) // and what an advert that arrived led to
}

// simNode is a host with one machine per segment, all in one group.
type simNode struct {
	id    int
	cfgs  []Instance
	group Group
	addr  netip.Addr
	alive bool
	life  int // runs so far: what a former run asked for is void
	held  []bool
	take  time.Duration // how long it takes to be ready
	said  []string      // what the last steps asked for
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

var simStart = time.Unix(1_000_000, 0)

func newSim(seed uint64) *sim {
	return &sim{now: simStart, rand: rand.New(rand.NewPCG(seed, 1)), delay: time.Millisecond, cut: map[[2]int]bool{}}
}

// add puts a host with one machine per instance on the segments.
func (s *sim) add(cfgs ...Instance) *simNode {
	n := &simNode{
		id: len(s.nodes), cfgs: cfgs, held: make([]bool, len(cfgs)), take: time.Millisecond,
		addr: netip.AddrFrom4([4]byte{10, 99, 0, byte(len(s.nodes) + 1)}),
	}
	s.nodes = append(s.nodes, n)
	return n
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, event{s.now.Add(d), s.seq, do})
}

func (s *sim) start(n *simNode) {
	if n.alive {
		return
	}
	n.alive, n.life = true, n.life+1
	n.group = nil
	for _, cfg := range n.cfgs {
		n.group = append(n.group, NewMachine(cfg))
	}
	for i, m := range n.group {
		s.step(n, m, Start{Self: n.addr, Holding: n.held[i]})
	}
}

// kill ends n without a word; its VIPs stay where they are.
func (s *sim) kill(n *simNode) { n.alive = false }

func (s *sim) stop(n *simNode) {
	for _, m := range n.group {
		s.step(n, m, Stop{})
	}
}

func (s *sim) step(n *simNode, m *Machine, in Input) {
	if !n.alive {
		return
	}
	n.said = nil
	for _, st := range n.group.Step(m, in, s.now) {
		s.act(n, st)
	}
	if s.watch != nil {
		s.watch(s)
	}
}

func (s *sim) act(n *simNode, st Step) {
	seg, life := 0, n.life
	for i, m := range n.group {
		if m == st.Machine {
			seg = i
		}
	}
	n.said = append(n.said, fmt.Sprintf("%T%+v", st.Action, st.Action)[len("vrrp."):])
	switch a := st.Action.(type) {
	case Advertise:
		if s.onSend != nil {
			s.onSend(n.id, a)
		}
		s.send(n, seg, a)
	case Resign:
		s.send(n, seg, Advertise{0})
	case Take:
		s.after(n.take, func() {
			if n.life == life && n.alive && st.Machine.Role() == Master {
				n.held[seg] = true
				s.step(n, st.Machine, Ready{})
			}
		})
	case Drop:
		n.held[seg] = false
	case Change:
		s.log = append(s.log, fmt.Sprintf("%s %d.%d %s→%s: %s", s.since(), n.id, seg, a.Old, a.New, a.Why))
	}
}

func (s *sim) since() time.Duration { return s.now.Sub(simStart) }

func (s *sim) send(from *simNode, seg int, a Advertise) {
	in := Heard{From: from.addr, Priority: a.Priority, Interval: from.cfgs[seg].AdvertInterval}
	for _, to := range s.nodes {
		if to == from || s.cut[pair(from.id, to.id)] {
			continue
		}
		for copies := 1; copies > 0; copies-- {
			if s.rand.Float64() < s.loss {
				continue
			}
			if s.rand.Float64() < s.dup {
				copies++
			}
			s.after(time.Duration(s.rand.Int64N(int64(s.delay)+1)), func() {
				if !to.alive {
					return
				}
				before := to.group[seg].Role()
				s.step(to, to.group[seg], in)
				if s.onHear != nil {
					s.onHear(to, seg, in, before, to.said)
				}
			})
		}
	}
}

func pair(a, b int) [2]int { return [2]int{min(a, b), max(a, b)} }

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		at, do := end, func() {}
		found := false
		if len(s.queue) > 0 && !s.queue[0].at.After(at) {
			at, found = s.queue[0].at, true
			do = func() { heap.Pop(&s.queue).(event).do() }
		}
		for _, n := range s.nodes {
			for _, m := range n.group {
				if due := m.Deadline(); n.alive && !due.IsZero() && !due.After(at) && (!found || due.Before(at)) {
					at, found = due, true
					do = func() { s.step(n, m, Tick{}) }
				}
			}
		}
		if at.After(s.now) {
			s.now = at
		}
		if !found {
			return
		}
		do()
	}
}

// masters lists the hosts that serve segment seg.
func (s *sim) masters(seg int) (ids []int) {
	for _, n := range s.nodes {
		if n.alive && n.group[seg].Active() {
			ids = append(ids, n.id)
		}
	}
	return ids
}
