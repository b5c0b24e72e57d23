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
	State           State
	Diagnostic      Diagnostic // of this side
	NeighbourState  State
	NeighbourReason Diagnostic // the neighbour's
	Since           time.Time  // in this state
	Err             error      // why nothing can be sent; nil: it can
}

// queue is how many packets of a neighbour wait at most: more are lost, as they
// are by a network.
const queue = 16

// session runs one machine.
type session struct {
	Session

	send     func([]byte) error
	report   func(Status)
	received chan Packet
	changes  chan Timing
	quit     chan struct{}
	done     chan struct{}

	local uint32

	mu     sync.Mutex
	status Status
}

func startSession(want Session, local uint32, send func([]byte) error, report func(Status)) *session {
	s := &session{
		Session: want, local: local, send: send, report: report,
		received: make(chan Packet, queue), changes: make(chan Timing),
		quit: make(chan struct{}), done: make(chan struct{}),
		status: Status{Name: want.Name, State: Down, NeighbourState: Down, Since: time.Now()},
	}
	go s.run()
	return s
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
		case <-timer.C:
			m.expire(time.Now())
		case <-s.quit:
			m.shutDown(time.Now())
			if p, isDue := m.transmit(time.Now()); isDue {
				s.transmit(p)
			}
			s.record(m)
			return
		}
		if p, isDue := m.transmit(time.Now()); isDue {
			s.transmit(p)
		}
		s.record(m)
		timer.Stop()
		if at := m.wake(); !at.IsZero() {
			timer.Reset(time.Until(at))
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
	hasChanged := s.status.State != m.state
	s.status.State, s.status.Diagnostic = m.state, m.diagnostic
	s.status.NeighbourState, s.status.NeighbourReason = m.remoteState, m.remoteDiag
	if hasChanged {
		s.status.Since = time.Now()
	}
	status := s.status
	s.mu.Unlock()
	if hasChanged {
		s.report(status)
	}
}
