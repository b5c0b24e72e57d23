package bfd

import (
	"encoding/json"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// handOver ends a session of a line without a word, once its neighbour has agreed
// to a silence, and returns what a successor needs.
func handOver(s *session, silence time.Duration) *Memory {
	q := suspension{silence, make(chan struct{})}
	s.suspends <- q
	<-q.isDone
	close(s.halted)
	<-s.done
	return s.memory
}

// A successor that comes within the silence carries a session on; its neighbour
// sees nothing, and detects as fast as before afterwards.
func TestSuccessorCarriesASessionOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		reports := make(chan Status, 16)
		a, b := l.connect(0, fast, false, ignore), l.connect(1, fast, false, func(s Status) { reports <- s })
		time.Sleep(3 * time.Second)
		for len(reports) > 0 {
			<-reports
		}
		left := handOver(a, 10*time.Second)
		if left == nil || left.Silence < 10*time.Second {
			t.Fatalf("left %+v", left)
		}
		l.ends[0].Store(nil)
		time.Sleep(9 * time.Second)
		next := newSession(left.Session, left.Local, l.carry(0), ignore)
		next.inherited = left
		l.ends[0].Store(next)
		go next.run()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := len(reports); n != 0 || next.current().State != Up {
			t.Fatalf("%d changes seen by the neighbour, successor is %v", n, next.current().State)
		}
		l.isCut.Store(true)
		cut := time.Now()
		time.Sleep(time.Second)
		if down := <-reports; down.State != Down || down.Since.Sub(cut) > 60*ms {
			t.Errorf("neighbour is %v %v after the cut", down.State, down.Since.Sub(cut))
		}
		next.stop()
		b.stop()
	})
}

// Without a successor the neighbour sees the session down when the silence ends.
func TestSilenceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		a, b := l.connect(0, fast, false, ignore), l.connect(1, fast, false, ignore)
		time.Sleep(3 * time.Second)
		left := handOver(a, 2*time.Second)
		l.ends[0].Store(nil)
		time.Sleep(left.Silence - ms)
		if s := b.current(); s.State != Up {
			t.Fatalf("neighbour is %v within the silence", s.State)
		}
		time.Sleep(2 * ms)
		synctest.Wait()
		if s := b.current(); s.State != Down || s.Diagnostic != DetectionTimeExpired {
			t.Errorf("neighbour is %v, %v after the silence", s.State, s.Diagnostic)
		}
		b.stop()
	})
}

// A neighbour that has gone while nobody listened is found within a detection
// time.
func TestSuccessorFindsTheNeighbourGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		a, b := l.connect(0, fast, false, ignore), l.connect(1, fast, false, ignore)
		time.Sleep(3 * time.Second)
		left := handOver(a, time.Second)
		l.isCut.Store(true)
		b.stop()
		next := newSession(left.Session, left.Local, l.carry(0), ignore)
		next.inherited = left
		go next.run()
		time.Sleep(time.Duration(left.RemoteMultiplier) * max(left.RemoteMinTx, fast.MinRx))
		synctest.Wait()
		if s := next.current(); s.State != Down || s.Diagnostic != DetectionTimeExpired || s.Downs != 1 {
			t.Errorf("successor is %+v", s)
		}
		next.stop()
	})
}

func TestSessionThatIsNotUpLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line
		if left := handOver(l.connect(0, fast, false, ignore), time.Second); left != nil {
			t.Errorf("left %+v", left)
		}
	})
}

// The end of a session waits for a neighbour that is there, and not for ever for
// one that is silent.
func TestEndWaitsForTheNeighbour(t *testing.T) {
	slow := Timing{MinTx: 800 * ms, MinRx: 800 * ms, IdleTx: time.Second, Multiplier: 3}
	for _, c := range []struct {
		name    string
		timing  Timing
		isCut   bool
		most    time.Duration
		packets int64
	}{
		{"one that hears it", fast, false, 0, 1},
		{"one that is silent", fast, true, 60 * ms, 1},
		{"one that is silent and slow", slow, true, endPatience, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l line
			a, b := l.connect(0, c.timing, false, ignore), l.connect(1, c.timing, false, ignore)
			time.Sleep(3 * time.Second)
			l.isCut.Store(c.isCut)
			before, began := l.sent[0].Load(), time.Now()
			a.stop()
			if n, took := l.sent[0].Load()-before, time.Since(began); n != c.packets || took > c.most {
				t.Errorf("%s: told %d times in %v", c.name, n, took)
			}
			b.stop()
		})
	}
}

// A speaker carries on what another one left, over what a file holds of it, and
// ends what is not wanted any more.
func TestSpeakerResumes(t *testing.T) {
	one, two := segment("one", there), segment("two", netip.MustParseAddr("127.0.0.3"))
	left := []Memory{
		{Session: one, Local: 5, Remote: 6, RemoteMinTx: time.Minute, RemoteMinRx: time.Minute, RemoteMultiplier: 3, Silence: time.Minute},
		{Session: two, Local: 7, Remote: 8, RemoteMinTx: time.Minute, RemoteMinRx: time.Minute, RemoteMultiplier: 3, Silence: time.Minute},
	}
	text, err := json.Marshal(left)
	if err != nil {
		t.Fatal(err)
	}
	var read []Memory
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(left, read, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Fatalf("from JSON (-want +got):\n%s", diff)
	}
	s, reports := newTestSpeaker(t)
	if err := s.Resume(read); err != nil {
		t.Fatal(err)
	}
	if len(reports) != 2 || (<-reports).State != Up || (<-reports).State != Up {
		t.Error("sessions that go on are not reported as up")
	}
	// The neighbour of the session that ends has heard of it.
	at := s.receivers[port{}].conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	heard := &sender{from: two.Neighbour, to: netip.AddrPortFrom(here, at), ttl: 255}
	defer heard.close()
	p := Packet{State: Down, Multiplier: 3, MyDiscriminator: 8, YourDiscriminator: 7, DesiredMinTx: time.Minute, RequiredMinRx: time.Minute}
	if err := heard.send(p.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply([]Session{one}); err != nil {
		t.Fatal(err)
	}
	if st, isThere := s.Find("one"); !isThere || st.State != Up {
		t.Errorf("found %+v, %v", st, isThere)
	}
	if _, isThere := s.Find("two"); isThere || !s.locals[5] || len(s.locals) != 1 {
		t.Errorf("two is there: %v; discriminators %v", isThere, s.locals)
	}
	if err := s.Resume([]Memory{left[0], left[0]}); err == nil {
		t.Error("the same session twice")
	}
	if left := s.Suspend(time.Millisecond, 0); len(left) != 1 || left[0].Local != 5 {
		t.Errorf("left %+v", left)
	}
}
