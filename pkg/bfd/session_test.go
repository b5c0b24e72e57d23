package bfd

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// line carries the packets of two sessions to each other without delay.
type line struct {
	isCut atomic.Bool
	ends  [2]atomic.Pointer[session]
	sent  [2]atomic.Int64
}

// carry is how one end sends.
func (l *line) carry(from int) func([]byte) error {
	return func(b []byte) error {
		l.sent[from].Add(1)
		other := l.ends[1-from].Load()
		if p, err := Parse(b); err == nil && other != nil && !l.isCut.Load() {
			other.deliver(p)
		}
		return nil
	}
}

// connect begins a session at an end of the line.
func (l *line) connect(end int, timing Timing, isPassive bool, report func(Status)) *session {
	s := newSession(Session{Name: "s", Timing: timing, IsPassive: isPassive}, uint32(end+1), l.carry(end), report)
	go s.run()
	l.ends[end].Store(s)
	return s
}

func ignore(Status) {}

func TestSessionComesUpAndFindsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		reports := make(chan Status, 16)
		a := l.connect(0, fast, false, func(s Status) { reports <- s })
		b := l.connect(1, fast, false, ignore)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if a.current().State != Up || b.current().State != Up {
			t.Fatalf("%v and %v, want both up", a.current().State, b.current().State)
		}
		l.isCut.Store(true)
		cut := time.Now()
		time.Sleep(time.Second)
		for len(reports) > 1 {
			<-reports
		}
		down := <-reports
		// The neighbour sends every 20ms at most: three of them may be missing.
		if took := down.Since.Sub(cut); down.State != Down || took > 60*ms || took < 40*ms {
			t.Errorf("%v %v after the cut, want down after 40ms to 60ms", down.State, took)
		}
		if down.Diagnostic != DetectionTimeExpired {
			t.Errorf("diagnostic %v", down.Diagnostic)
		}
		l.isCut.Store(false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if a.current().State != Up || b.current().State != Up {
			t.Errorf("%v and %v after the line is whole again, want both up", a.current().State, b.current().State)
		}
		a.stop()
		b.stop()
	})
}

func TestSessionSendsSlowlyWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		a := l.connect(0, fast, false, ignore)
		time.Sleep(time.Minute)
		a.stop()
		// One at once, then every 0.75s to 1s, and one that says admin down.
		if n := l.sent[0].Load(); n < 61 || n > 82 {
			t.Errorf("%d packets in a minute", n)
		}
	})
}

func TestStoppedSessionIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		a, b := l.connect(0, fast, false, ignore), l.connect(1, fast, true, ignore)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if b.current().State != Up {
			t.Fatalf("passive side is %v", b.current().State)
		}
		a.stop()
		synctest.Wait()
		if s := b.current(); s.State != Down || s.Diagnostic != NeighborSignaledDown || s.NeighbourReason != AdministrativelyDown {
			t.Errorf("after the neighbour has stopped: %+v", s)
		}
		b.stop()
	})
}

func TestTwoPassiveSessionsStayDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		a, b := l.connect(0, fast, true, ignore), l.connect(1, fast, true, ignore)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := l.sent[0].Load() + l.sent[1].Load(); n != 0 || a.current().State != Down {
			t.Errorf("%d packets, %v", n, a.current().State)
		}
		a.stop()
		b.stop()
	})
}

func TestChangedIntervalsKeepTheSessionUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		reports := make(chan Status, 16)
		a, b := l.connect(0, fast, false, func(s Status) { reports <- s }), l.connect(1, fast, false, ignore)
		time.Sleep(3 * time.Second)
		for len(reports) > 0 {
			<-reports
		}
		slow := Timing{MinTx: 500 * ms, MinRx: 500 * ms, IdleTx: time.Second, Multiplier: 3}
		for _, timing := range []Timing{slow, fast, slow} {
			a.change(timing)
			time.Sleep(5 * time.Second)
		}
		if len(reports) > 0 {
			t.Errorf("the session went %v", (<-reports).State)
		}
		before := l.sent[0].Load()
		time.Sleep(10 * time.Second)
		if n := l.sent[0].Load() - before; n < 20 || n > 28 {
			t.Errorf("%d packets in 10s, want one every 375ms to 500ms", n)
		}
		a.stop()
		b.stop()
	})
}
