package bfd

import (
	"testing"
	"time"
)

const ms = time.Millisecond

// epoch is when the machines of these tests begin.
var epoch = time.Unix(1_000_000, 0)

var fast = Timing{MinTx: 10 * ms, MinRx: 20 * ms, IdleTx: time.Second, Multiplier: 3}

// withoutJitter is the random number that takes nothing from an interval.
func withoutJitter() float64 { return 1 }

func newTestMachine(isPassive bool) *machine {
	return newMachine(7, fast, isPassive, withoutJitter, epoch)
}

// from is a packet of the neighbour, which has discriminator 9.
func from(s State) *Packet {
	return &Packet{
		State: s, Multiplier: 4, MyDiscriminator: 9, YourDiscriminator: 7,
		DesiredMinTx: 50 * ms, RequiredMinRx: 30 * ms,
	}
}

// upMachine has a session that is up, its poll answered.
func upMachine(t *testing.T) *machine {
	t.Helper()
	m := newTestMachine(false)
	m.receive(epoch, from(Init))
	final := from(Up)
	final.Final = true
	m.receive(epoch, final)
	if m.state != Up || m.isPolling {
		t.Fatalf("session is %v, polling: %v", m.state, m.isPolling)
	}
	if _, isDue := m.transmit(epoch); !isDue {
		t.Fatal("a session that came up sends nothing")
	}
	return m
}

// The table of RFC 5880 section 6.8.6, and what it says of AdminDown.
func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		state, heard, want State
		diagnostic         Diagnostic
	}{
		{Down, AdminDown, Down, NoDiagnostic},
		{Down, Down, Init, NoDiagnostic},
		{Down, Init, Up, NoDiagnostic},
		{Down, Up, Down, NoDiagnostic},
		{Init, AdminDown, Down, NeighborSignaledDown},
		{Init, Down, Init, NoDiagnostic},
		{Init, Init, Up, NoDiagnostic},
		{Init, Up, Up, NoDiagnostic},
		{Up, AdminDown, Down, NeighborSignaledDown},
		{Up, Down, Down, NeighborSignaledDown},
		{Up, Init, Up, NoDiagnostic},
		{Up, Up, Up, NoDiagnostic},
		{AdminDown, AdminDown, AdminDown, AdministrativelyDown},
		{AdminDown, Down, AdminDown, AdministrativelyDown},
		{AdminDown, Init, AdminDown, AdministrativelyDown},
		{AdminDown, Up, AdminDown, AdministrativelyDown},
	} {
		m := newTestMachine(false)
		m.state = c.state
		if c.state == AdminDown {
			m.diagnostic = AdministrativelyDown
		}
		m.receive(epoch, from(c.heard))
		if m.state != c.want || m.diagnostic != c.diagnostic {
			t.Errorf("%v hears %v: %v with %v, want %v with %v", c.state, c.heard, m.state, m.diagnostic, c.want, c.diagnostic)
		}
	}
}

func TestPacketForAnotherSessionChangesNothing(t *testing.T) {
	m := newTestMachine(false)
	p := from(Down)
	p.YourDiscriminator = 8
	if m.receive(epoch, p) || m.state != Down || m.remote != 0 || !m.lastHeard.IsZero() {
		t.Errorf("it changed the session: %+v", m)
	}
}

func TestNeighbourThatBeganAnewTakesTheSessionDown(t *testing.T) {
	m := upMachine(t)
	p := from(Down)
	p.MyDiscriminator, p.YourDiscriminator = 99, 0
	m.receive(epoch, p)
	if m.state != Down || m.remote != 99 {
		t.Errorf("session is %v with discriminator %d, want down with 99", m.state, m.remote)
	}
}

func TestIntervals(t *testing.T) {
	m := newTestMachine(false)
	if got := m.sendInterval(); got != time.Second {
		t.Errorf("down: sends every %v, want 1s", got)
	}
	if p := m.packet(); p.DesiredMinTx != time.Second || p.RequiredMinRx != 20*ms {
		t.Errorf("down: announces %v and %v", p.DesiredMinTx, p.RequiredMinRx)
	}
	m.receive(epoch, from(Init))
	if got := m.sendInterval(); got != 30*ms { // what the neighbour accepts
		t.Errorf("up: sends every %v, want 30ms", got)
	}
	if p := m.packet(); p.DesiredMinTx != 10*ms || !p.Poll {
		t.Errorf("up: announces %v, poll: %v", p.DesiredMinTx, p.Poll)
	}
	if got := m.detectionTime(); got != 4*50*ms { // its multiplier, its interval
		t.Errorf("detection time %v, want 200ms", got)
	}
	quick := from(Up)
	quick.DesiredMinTx = ms
	m.receive(epoch, quick)
	if got := m.detectionTime(); got != 4*20*ms { // faster than this side accepts
		t.Errorf("detection time %v, want 80ms", got)
	}
}

func TestDetectionTime(t *testing.T) {
	m := upMachine(t)
	if m.expire(epoch.Add(200*ms-1)) || m.state != Up {
		t.Fatal("down before the detection time")
	}
	if !m.expire(epoch.Add(200*ms)) || m.state != Down || m.diagnostic != DetectionTimeExpired {
		t.Fatalf("%v with %v after the detection time", m.state, m.diagnostic)
	}
	if m.remote != 0 || m.isPolling {
		t.Errorf("still knows discriminator %d, polling: %v", m.remote, m.isPolling)
	}
	if p, isDue := m.transmit(epoch.Add(200 * ms)); !isDue || p.State != Down || p.DesiredMinTx != time.Second {
		t.Errorf("sends %+v (due: %v), want down at once", p, isDue)
	}
	if m.expire(epoch.Add(time.Hour)) {
		t.Error("expired twice")
	}
}

func TestPollHoldsSlowerSending(t *testing.T) {
	m := upMachine(t)
	slow := fast
	slow.MinTx, slow.MinRx = 100*ms, 5*ms
	m.change(epoch, slow)
	p, isDue := m.transmit(epoch)
	if !isDue || !p.Poll || p.DesiredMinTx != 100*ms || p.RequiredMinRx != 5*ms {
		t.Fatalf("sends %+v (due: %v), want the new intervals with a poll at once", p, isDue)
	}
	if m.sendInterval() != 30*ms || m.rx != 20*ms {
		t.Errorf("before the answer it sends every %v and expects every %v", m.sendInterval(), m.rx)
	}
	m.receive(epoch, from(Up))
	if !m.isPolling {
		t.Error("a packet without final ended the poll")
	}
	final := from(Up)
	final.Final = true
	m.receive(epoch, final)
	if m.isPolling || m.sendInterval() != 100*ms || m.rx != 5*ms {
		t.Errorf("after the answer it sends every %v and expects every %v, polling: %v", m.sendInterval(), m.rx, m.isPolling)
	}
}

func TestFasterSendingBeginsAtOnce(t *testing.T) {
	m := upMachine(t)
	other := fast
	other.MinTx = 100 * ms
	m.change(epoch, other)
	final := from(Up)
	final.Final = true
	m.receive(epoch, final)
	m.transmit(epoch)
	m.change(epoch, fast)
	if m.sendInterval() != 30*ms {
		t.Errorf("sends every %v, want 30ms", m.sendInterval())
	}
}

func TestSecondPollWaitsForTheFirst(t *testing.T) {
	m := upMachine(t)
	one, two := fast, fast
	one.MinTx, two.MinTx = 100*ms, 200*ms
	m.change(epoch, one)
	m.change(epoch, two)
	final := from(Up)
	final.Final = true
	m.receive(epoch, final)
	if m.sendInterval() != 30*ms {
		t.Errorf("sends every %v, want 30ms as long as 200ms is not confirmed", m.sendInterval())
	}
	if p, isDue := m.transmit(epoch.Add(time.Second)); !isDue || p.Poll {
		t.Errorf("sends %+v (due: %v), want a packet without poll between two polls", p, isDue)
	}
	if p, isDue := m.transmit(epoch.Add(2 * time.Second)); !isDue || !p.Poll {
		t.Errorf("sends %+v (due: %v), want the second poll", p, isDue)
	}
	m.receive(epoch.Add(2*time.Second), final)
	if m.sendInterval() != 200*ms {
		t.Errorf("sends every %v, want 200ms", m.sendInterval())
	}
}

func TestAnswerToPoll(t *testing.T) {
	m := upMachine(t)
	poll := from(Up)
	poll.Poll = true
	if !m.receive(epoch, poll) {
		t.Fatal("a poll needs no answer")
	}
	if p := m.answer(); p.Poll || !p.Final || p.YourDiscriminator != 9 {
		t.Errorf("answer %+v", p)
	}
}

func TestQuiet(t *testing.T) {
	passive := newTestMachine(true)
	if _, isDue := passive.transmit(epoch.Add(time.Minute)); isDue || !passive.wake().IsZero() {
		t.Error("a passive session speaks first")
	}
	passive.receive(epoch, from(Down))
	if p, isDue := passive.transmit(epoch); !isDue || p.State != Init {
		t.Errorf("a passive session that heard its neighbour sends %+v (due: %v)", p, isDue)
	}

	deaf := upMachine(t)
	p := from(Up)
	p.RequiredMinRx = 0
	deaf.receive(epoch, p)
	if _, isDue := deaf.transmit(epoch.Add(100 * ms)); isDue {
		t.Error("sends to a neighbour that wants no packets")
	}

	demand := upMachine(t)
	p = from(Up)
	p.Demand = true
	demand.receive(epoch, p)
	if _, isDue := demand.transmit(epoch.Add(100 * ms)); isDue {
		t.Error("sends to a neighbour in demand mode")
	}
	other := fast
	other.MinTx = 40 * ms
	demand.change(epoch.Add(100*ms), other)
	if p, isDue := demand.transmit(epoch.Add(100 * ms)); !isDue || !p.Poll {
		t.Error("does not poll a neighbour in demand mode")
	}
}

func TestShutDown(t *testing.T) {
	m := upMachine(t)
	m.shutDown(epoch)
	p, isDue := m.transmit(epoch)
	if !isDue || p.State != AdminDown || p.Diagnostic != AdministrativelyDown || p.Poll {
		t.Errorf("sends %+v (due: %v)", p, isDue)
	}
}

func TestJitter(t *testing.T) {
	for _, c := range []struct {
		multiplier  uint8
		random      float64
		least, most time.Duration
	}{
		{3, 0, 75 * ms, 75 * ms},
		{3, 0.999999, 99 * ms, 100 * ms},
		{1, 0, 75 * ms, 75 * ms},
		{1, 0.999999, 89 * ms, 90 * ms},
	} {
		m := newTestMachine(false)
		m.timing.Multiplier, m.random = c.multiplier, func() float64 { return c.random }
		if got := m.jittered(100 * ms); got < c.least || got > c.most {
			t.Errorf("multiplier %d, %v: %v, want %v to %v", c.multiplier, c.random, got, c.least, c.most)
		}
	}
}
