package bfd

import (
	"sync"
	"time"
)

// Memory is what a successor needs to carry on a session that is up without its
// neighbour's noticing.
type Memory struct {
	Session Session

	Local, Remote    uint32 // discriminators
	RemoteMinTx      time.Duration
	RemoteMinRx      time.Duration
	RemoteMultiplier uint8
	Silence          time.Duration // for which the neighbour waits, from when it was last sent a packet
}

// silentFor is a timing by which the neighbour lets this side be silent for d.
func (t Timing) silentFor(d time.Duration) Timing {
	n := time.Duration(t.Multiplier)
	t.MinTx = max(t.MinTx, (d+n-1)/n)
	return t
}

// suspension asks a session to have its neighbour let it be silent.
type suspension struct {
	silence time.Duration
	isDone  chan struct{} // closed once the neighbour has agreed, or there is nothing to agree on
}

// confirm closes isDone once it is so.
func (s *suspension) confirm(m *machine) {
	if s.isDone == nil || m.state == Up && (m.isPolling || m.mustPollNext) {
		return
	}
	close(s.isDone)
	s.isDone = nil
}

// remember is what a successor needs of a session; nil: it is not up.
func (m *machine) remember(of Session) *Memory {
	if m.state != Up {
		return nil
	}
	silence := time.Duration(m.timing.Multiplier) * max(m.tx, m.remoteMinRx)
	return &Memory{
		Session: of, Local: m.local, Remote: m.remote, Silence: silence,
		RemoteMinTx: m.remoteMinTx, RemoteMinRx: m.remoteMinRx, RemoteMultiplier: m.remoteMultiplier,
	}
}

// inherit has a machine that begins carry on a session. Its neighbour has one
// detection time to be heard in.
func (m *machine) inherit(now time.Time, from *Memory) {
	m.state, m.remoteState, m.lastHeard = Up, Up, now
	m.remote, m.remoteMinTx, m.remoteMinRx, m.remoteMultiplier = from.Remote, from.RemoteMinTx, from.RemoteMinRx, from.RemoteMultiplier
	m.tx = from.Silence / time.Duration(m.timing.Multiplier)
	m.pollFor(m.announcedTx(), m.timing.MinRx)
	m.nextSend = now
}

// Suspend has the neighbours of all sessions that are up let this side be silent
// for that long, waits until they agree, at most for limit, and ends all sessions
// without a word. It returns what [Speaker.Resume] takes.
func (s *Speaker) Suspend(silence, limit time.Duration) []Memory {
	s.applying.Lock()
	defer s.applying.Unlock()
	leaving := s.pick(func(*member) bool { return true })
	end := time.NewTimer(limit)
	defer end.Stop()
	var agreed []chan struct{}
	for _, m := range leaving {
		q := suspension{silence, make(chan struct{})}
		m.suspends <- q
		agreed = append(agreed, q.isDone)
	}
wait:
	for _, is := range agreed {
		select {
		case <-is:
		case <-end.C:
			break wait
		}
	}
	var memories []Memory
	for _, m := range leaving {
		close(m.halted)
		<-m.done
		m.sender.close()
		if m.memory != nil {
			memories = append(memories, *m.memory)
		}
	}
	s.mu.Lock()
	clear(s.byName)
	clear(s.byPeer)
	clear(s.locals)
	s.mu.Unlock()
	_ = s.listen(nil) // opens nothing, so nothing fails
	s.readers.Wait()
	return memories
}

// Resume carries on sessions of a predecessor, and has reported each as up when
// it returns. It is called before [Speaker.Apply], which lets the neighbour of
// one that is not wanted any more know that it ends.
func (s *Speaker) Resume(memories []Memory) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	var want []Session
	for _, m := range memories {
		want = append(want, m.Session)
	}
	if err := check(want); err != nil {
		return err
	}
	err := s.listen(want)
	for _, m := range memories {
		s.begin(m.Session, m.Local, &m)
	}
	return err
}

// endAll ends sessions at the same time, and lets their neighbours know.
func endAll(leaving []*member) {
	var all sync.WaitGroup
	for _, m := range leaving {
		all.Go(func() {
			m.stop()
			m.sender.close()
		})
	}
	all.Wait()
}
