package bfd

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Session is what the operator says of a session.
type Session struct {
	Name      string
	Neighbour netip.Addr // with a zone if it is a link-local one
	Source    netip.Addr // invalid: as the routes say
	Timing    Timing
	IsPassive bool  // it waits until the neighbour speaks
	Multihop  bool  // RFC 5883: port 4784
	TTL       uint8 // of packets sent, and what the neighbour sends with
	MaxHops   uint8 // so much may be missing of the TTL of a packet received; 0: the neighbour is on the segment
}

// identity is what a session cannot change without beginning anew.
func (s Session) identity() Session {
	s.Timing = Timing{}
	return s
}

// acceptsTTL reports whether a packet that came with a TTL came over no more
// hops than it may have (RFC 5881 section 5).
func (s Session) acceptsTTL(ttl uint8) bool { return int(ttl)+int(s.MaxHops) >= int(s.TTL) }

// Status is how a session stands.
type Status struct {
	Name            string
	Neighbour       netip.Addr
	State           State
	Diagnostic      Diagnostic // of this side
	NeighbourState  State
	NeighbourReason Diagnostic    // the neighbour's
	Since           time.Time     // in this state
	Downs           uint64        // times that it was up and then not
	Interval        time.Duration // between the packets that are sent
	Detection       time.Duration // how long the neighbour may be silent; 0: it has not been heard
	Err             error         // why nothing can be sent; nil: it can
	Refused         error         // why packets of the neighbour are discarded; nil: none was since it came up
}

// queue is how many packets of a neighbour wait at most: more are lost, as they
// are by a network.
const queue = 16

// endPatience is how long a neighbour is told at most that a session ends.
const endPatience = time.Second

// session runs one machine.
type session struct {
	Session

	send     func([]byte) error
	report   func(Status)
	received chan Packet
	changes  chan Timing
	quit     chan struct{}
	done     chan struct{}

	local     uint32
	inherited *Memory // of a predecessor; nil: the session begins

	suspends chan suspension
	halted   chan struct{} // closed: end without a word
	memory   *Memory       // written before done is closed

	mu     sync.Mutex
	status Status
}

func newSession(want Session, local uint32, send func([]byte) error, report func(Status)) *session {
	return &session{
		Session: want, local: local, send: send, report: report,
		received: make(chan Packet, queue), changes: make(chan Timing), suspends: make(chan suspension),
		quit: make(chan struct{}), halted: make(chan struct{}), done: make(chan struct{}),
		status: Status{Name: want.Name, Neighbour: want.Neighbour, State: Down, NeighbourState: Down, Since: time.Now()},
	}
}

// deliver hands over a packet that was received.
func (s *session) deliver(p Packet) {
	select {
	case s.received <- p:
	default:
	}
}

// change gives the session another timing.
func (s *session) change(t Timing) {
	select {
	case s.changes <- t:
	case <-s.done:
	}
}

// refuse notes why a packet of the neighbour was discarded.
func (s *session) refuse(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Refused = why
}

// stop lets the neighbour know that the session ends by intent, and ends it.
func (s *session) stop() {
	close(s.quit)
	<-s.done
}

func (s *session) current() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *session) run() {
	defer close(s.done)
	m := newMachine(s.local, s.Timing, s.IsPassive, rand.Float64, time.Now())
	if s.inherited != nil {
		m.inherit(time.Now(), s.inherited)
	}
	var suspended suspension
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case p := <-s.received:
			m.expire(time.Now()) // a packet that is late finds its session down
			if m.receive(time.Now(), &p) {
				s.transmit(m.answer())
			}
		case t := <-s.changes:
			m.change(time.Now(), t)
		case suspended = <-s.suspends:
			m.change(time.Now(), m.timing.silentFor(suspended.silence))
		case <-timer.C:
			m.expire(time.Now())
		case <-s.quit:
			s.shutDown(m, timer)
			return
		case <-s.halted:
			s.memory = m.remember(s.Session)
			return
		}
		s.goOn(m, timer)
		suspended.confirm(m)
	}
}

// goOn sends what is due, records how the session stands, and has the timer run
// until there is something to do again.
func (s *session) goOn(m *machine, timer *time.Timer) {
	if p, isDue := m.transmit(time.Now()); isDue {
		s.transmit(p)
	}
	s.record(m)
	timer.Stop()
	if at := m.wake(); !at.IsZero() {
		timer.Reset(time.Until(at))
	}
}

// shutDown ends the session by intent. A neighbour that had it up is told until
// the neighbour has heard it or is not heard itself for the detection time (RFC
// 5880 section 6.8.16), for a second at most.
func (s *session) shutDown(m *machine, timer *time.Timer) {
	mustBeHeard := m.state == Up
	m.shutDown(time.Now())
	s.goOn(m, timer)
	patience := time.NewTimer(endPatience)
	defer patience.Stop()
	for mustBeHeard {
		select {
		case p := <-s.received:
			m.receive(time.Now(), &p)
			mustBeHeard = m.remoteState == Up || m.remoteState == Init
		case <-timer.C:
			m.expire(time.Now())
			if mustBeHeard = m.remote != 0; mustBeHeard {
				s.goOn(m, timer)
			}
		case <-patience.C:
			return
		}
	}
}

func (s *session) transmit(p Packet) {
	err := s.send(p.Append(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Err = err
}

// record keeps how the session stands, and reports another state.
func (s *session) record(m *machine) {
	s.mu.Lock()
	hasChanged, wasUp := s.status.State != m.state, s.status.State == Up
	s.status.State, s.status.Diagnostic = m.state, m.diagnostic
	s.status.NeighbourState, s.status.NeighbourReason = m.remoteState, m.remoteDiag
	s.status.Interval, s.status.Detection = m.sendInterval(), 0
	if !m.lastHeard.IsZero() {
		s.status.Detection = m.detectionTime()
	}
	if hasChanged {
		s.status.Since = time.Now()
	}
	switch {
	case hasChanged && wasUp:
		s.status.Downs++
	case hasChanged && m.state == Up:
		s.status.Refused = nil
	}
	status := s.status
	s.mu.Unlock()
	if hasChanged {
		s.report(status)
	}
}
