package bfd

import "time"

// slowest is the shortest interval at which a session that is not up may
// send (RFC 5880 section 6.8.3).
const slowest = time.Second

// Timing is what a session asks of its neighbour and of itself.
type Timing struct {
	MinTx      time.Duration // the shortest interval between the packets that it sends
	MinRx      time.Duration // the shortest between those that it wants to receive
	IdleTx     time.Duration // between those that it sends while it is not up; at least a second
	Multiplier uint8         // so many packets may be missing
}

// What a session of lvx may be told: [Timing]'s MinTx and MinRx, and its IdleTx,
// which is no shorter than RFC 5880 section 6.8.3 has it.
const (
	MinInterval = 10 * time.Millisecond
	MaxInterval = 10 * time.Second
	MinIdle     = time.Second
	MaxIdle     = time.Minute
)

// assumedMinRx is the shortest interval that a neighbour is taken to accept, as
// long as it has not been heard (RFC 5880 section 6.8.1).
const assumedMinRx = time.Microsecond

// machine is the state of one session (RFC 5880 section 6.8.1). It knows the
// time only as it is told it, sends nothing and waits for nothing.
type machine struct {
	timing    Timing
	isPassive bool
	random    func() float64 // in [0, 1): the jitter's

	state       State
	diagnostic  Diagnostic
	local       uint32 // discriminators
	remote      uint32
	remoteState State
	remoteDiag  Diagnostic

	remoteMinTx      time.Duration
	remoteMinRx      time.Duration
	remoteMultiplier uint8
	remoteWantsQuiet bool // demand mode

	tx, rx time.Duration // in force; what is announced may wait for the end of a poll

	isPolling    bool
	mustPollNext bool // something changed again during a poll

	lastHeard time.Time // zero: not since the detection time expired
	lastSent  time.Time
	nextSend  time.Time
}

func newMachine(local uint32, t Timing, isPassive bool, random func() float64, now time.Time) *machine {
	m := &machine{timing: t, isPassive: isPassive, random: random, state: Down, local: local, nextSend: now}
	m.forgetNeighbour()
	m.tx, m.rx = m.announcedTx(), t.MinRx
	return m
}

func (m *machine) forgetNeighbour() {
	m.remote, m.remoteState, m.remoteMinRx, m.remoteWantsQuiet = 0, Down, assumedMinRx, false
	m.isPolling, m.mustPollNext = false, false
	m.lastHeard = time.Time{}
}

// announcedTx is the interval that the session states as its desired one.
func (m *machine) announcedTx() time.Duration {
	if m.state == Up {
		return m.timing.MinTx
	}
	return max(slowest, m.timing.IdleTx, m.timing.MinTx)
}

// sendInterval is the interval between two packets before jitter.
func (m *machine) sendInterval() time.Duration { return max(m.tx, m.remoteMinRx) }

// detectionTime is how long the neighbour may be silent (RFC 5880 section 6.8.4).
func (m *machine) detectionTime() time.Duration {
	return time.Duration(m.remoteMultiplier) * max(m.rx, m.remoteMinTx)
}

// receive takes in a packet of this session's neighbour (RFC 5880 section
// 6.8.6, from where the session is known), and reports whether the neighbour
// asks for an answer at once.
func (m *machine) receive(now time.Time, p *Packet) (mustAnswer bool) {
	if p.YourDiscriminator != 0 && p.YourDiscriminator != m.local {
		return false
	}
	before := m.packet()
	m.remote, m.remoteState, m.remoteDiag = p.MyDiscriminator, p.State, p.Diagnostic
	m.remoteMinTx, m.remoteMinRx, m.remoteMultiplier = p.DesiredMinTx, p.RequiredMinRx, p.Multiplier
	m.remoteWantsQuiet = p.Demand
	if p.Final && m.isPolling {
		m.endPoll()
	}
	if m.state == AdminDown {
		return false
	}
	m.lastHeard = now
	m.follow(p.State)
	m.reschedule(now, before)
	return p.Poll
}

// follow changes the state as the neighbour's asks for.
func (m *machine) follow(neighbour State) {
	switch {
	case neighbour == AdminDown:
		if m.state != Down {
			m.enter(Down, NeighborSignaledDown)
		}
	case m.state == Down && neighbour == Down:
		m.enter(Init, m.diagnostic)
	case m.state == Down && neighbour == Init, m.state == Init && neighbour != Down:
		m.enter(Up, NoDiagnostic)
	case m.state == Up && neighbour == Down:
		m.enter(Down, NeighborSignaledDown)
	}
}

// enter changes the state, and with it the interval of sending.
func (m *machine) enter(s State, d Diagnostic) {
	announced := m.announcedTx()
	m.state, m.diagnostic = s, d
	if m.announcedTx() != announced {
		m.pollFor(m.announcedTx(), m.timing.MinRx)
	}
}

// pollFor makes intervals known to the neighbour. Before the neighbour has
// confirmed them, a session that is up sends no slower than before and
// does not expect faster packets (RFC 5880 section 6.8.3).
func (m *machine) pollFor(tx, rx time.Duration) {
	if m.state != Up || m.remote == 0 {
		m.tx, m.rx = tx, rx
	} else {
		m.tx, m.rx = min(m.tx, tx), max(m.rx, rx)
	}
	switch {
	case m.remote == 0: // nobody who had heard anything else
	case m.isPolling:
		m.mustPollNext = true
	default:
		m.isPolling = true
	}
}

// endPoll has the announced intervals in force, unless they are others by now
// than those that the neighbour has confirmed.
func (m *machine) endPoll() {
	m.isPolling = false
	if !m.mustPollNext {
		m.tx, m.rx = m.announcedTx(), m.timing.MinRx
	}
}

// change gives the session another timing.
func (m *machine) change(now time.Time, t Timing) {
	before := m.packet()
	announcedTx, announcedRx := m.announcedTx(), m.timing.MinRx
	m.timing = t
	if m.announcedTx() != announcedTx || t.MinRx != announcedRx {
		m.pollFor(m.announcedTx(), t.MinRx)
	}
	m.reschedule(now, before)
}

// shutDown takes the session down by the operator's will; it stays there.
func (m *machine) shutDown(now time.Time) {
	m.enter(AdminDown, AdministrativelyDown)
	m.isPolling, m.mustPollNext = false, false // nobody waits for the answer
	m.nextSend = now
}

// expire takes a session down whose neighbour was silent for too long, and
// reports whether that was so.
func (m *machine) expire(now time.Time) bool {
	if m.lastHeard.IsZero() || now.Sub(m.lastHeard) < m.detectionTime() {
		return false
	}
	before, wasIn := m.packet(), m.state
	m.forgetNeighbour()
	if m.state == Init || m.state == Up {
		m.enter(Down, DetectionTimeExpired)
	}
	m.reschedule(now, before)
	return wasIn != m.state
}

// reschedule sends at once what differs from what was to be sent before, and
// sooner what has a shorter interval by now.
func (m *machine) reschedule(now time.Time, before Packet) {
	after := m.packet()
	before.Poll = after.Poll
	if before != after {
		m.nextSend = now
		return
	}
	if soonest := m.lastSent.Add(m.sendInterval()); m.nextSend.After(soonest) {
		m.nextSend = soonest
	}
}

// isQuiet reports whether the session must not send of itself (RFC 5880
// section 6.8.7).
func (m *machine) isQuiet() bool {
	switch {
	case m.isPassive && m.remote == 0, m.remoteMinRx == 0:
		return true
	case m.remoteWantsQuiet && m.state == Up && m.remoteState == Up:
		return !m.isPolling
	}
	return false
}

// packet is what the session sends of itself in its present state.
func (m *machine) packet() Packet {
	return Packet{
		Diagnostic: m.diagnostic, State: m.state, Poll: m.isPolling, Multiplier: m.timing.Multiplier,
		MyDiscriminator: m.local, YourDiscriminator: m.remote,
		DesiredMinTx: m.announcedTx(), RequiredMinRx: m.timing.MinRx,
	}
}

// answer is the packet that ends the neighbour's poll.
func (m *machine) answer() Packet {
	p := m.packet()
	p.Poll, p.Final = false, true
	return p
}

// transmit returns the packet that is due, if one is.
func (m *machine) transmit(now time.Time) (p Packet, isDue bool) {
	if m.isQuiet() || now.Before(m.nextSend) {
		return Packet{}, false
	}
	p = m.packet()
	if !m.isPolling && m.mustPollNext {
		m.isPolling, m.mustPollNext = true, false // from the next packet on: two polls are apart by one
	}
	m.lastSent, m.nextSend = now, now.Add(m.jittered(m.sendInterval()))
	return p, true
}

// jittered takes up to a quarter from an interval; with multiplier 1 at least
// a tenth, else the neighbour would miss a packet that is only late.
func (m *machine) jittered(d time.Duration) time.Duration {
	least, most := 0.75, 1.0
	if m.timing.Multiplier == 1 {
		most = 0.9
	}
	return time.Duration(float64(d) * (least + (most-least)*m.random()))
}

// wake is when there is something to do if nothing is heard until then; zero:
// nothing.
func (m *machine) wake() time.Time {
	var at time.Time
	if !m.isQuiet() {
		at = m.nextSend
	}
	if !m.lastHeard.IsZero() {
		if expires := m.lastHeard.Add(m.detectionTime()); at.IsZero() || expires.Before(at) {
			at = expires
		}
	}
	return at
}
