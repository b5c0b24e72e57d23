package bfd

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Speaker has the sessions of a host.
type Speaker struct {
	report func(Status)
	ports  [2]uint16 // single hop, multihop

	applying sync.Mutex // one [Speaker.Apply] at a time

	mu        sync.RWMutex
	byName    map[string]*member
	locals    map[uint32]bool // discriminators of this side
	byPeer    map[peer]*member
	receivers map[port]*receiver

	readers sync.WaitGroup
}

// peer is what finds the session of a packet.
type peer struct {
	address  netip.Addr
	multihop bool
}

// port is what a receiver is for.
type port struct{ isSix, multihop bool }

// member is a session with its socket.
type member struct {
	*session
	sender *sender
}

// NewSpeaker makes a speaker without sessions. It calls report, from many
// goroutines, with each change of a session's state, its end included (admin down); report must
// not call [Speaker.Apply].
func NewSpeaker(report func(Status)) *Speaker {
	return &Speaker{
		report: report, ports: [2]uint16{portSingleHop, portMultihop},
		byName: map[string]*member{}, locals: map[uint32]bool{}, byPeer: map[peer]*member{},
		receivers: map[port]*receiver{},
	}
}

// Apply has exactly the sessions that are wanted. One that was there before
// goes on, with another timing if need be. Its error names the ports that it
// could not have: their sessions stay down until it is called again.
func (s *Speaker) Apply(want []Session) error {
	if err := check(want); err != nil {
		return err
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	s.remove(want)
	err := s.listen(want)
	for _, w := range want {
		s.mu.RLock()
		m := s.byName[w.Name]
		s.mu.RUnlock()
		if m == nil {
			s.add(w)
		} else {
			m.change(w.Timing)
		}
	}
	return err
}

// Close ends every session and lets its neighbour know that this is intended.
func (s *Speaker) Close() {
	_ = s.Apply(nil) // opens nothing, so nothing fails
	s.readers.Wait()
}

// Status lists the sessions by name.
func (s *Speaker) Status() []Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]Status, 0, len(s.byName))
	for _, m := range s.byName {
		all = append(all, m.current())
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Find returns how a session stands.
func (s *Speaker) Find(name string) (st Status, isThere bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.byName[name]
	if m == nil {
		return Status{}, false
	}
	return m.current(), true
}

// check refuses what no session can be made of.
func check(want []Session) error {
	names, peers := map[string]bool{}, map[peer]string{}
	for _, w := range want {
		at := peer{w.Neighbour, w.Multihop}
		switch t := w.Timing; {
		case names[w.Name]:
			return fmt.Errorf("BFD session %s: twice", w.Name)
		case peers[at] != "":
			return fmt.Errorf("BFD session %s: %s has one already, %s", w.Name, w.Neighbour, peers[at])
		case !w.Neighbour.IsValid() || w.Source.IsValid() && w.Source.Is4() != w.Neighbour.Is4():
			return fmt.Errorf("BFD session %s: neighbour %s, source %s", w.Name, w.Neighbour, w.Source)
		case t.MinTx <= 0 || t.MinRx <= 0 || t.Multiplier == 0 || w.TTL == 0:
			return fmt.Errorf("BFD session %s: an interval, the multiplier or the TTL is 0", w.Name)
		}
		names[w.Name], peers[at] = true, w.Name
	}
	return nil
}

// remove ends the sessions that are not wanted as they are.
func (s *Speaker) remove(want []Session) {
	stays := map[Session]bool{}
	for _, w := range want {
		stays[w.identity()] = true
	}
	leaving := s.pick(func(m *member) bool { return !stays[m.identity()] })
	endAll(leaving) // they hear their neighbours until then
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range leaving {
		delete(s.byName, m.Name)
		delete(s.locals, m.local)
		delete(s.byPeer, peer{m.Neighbour, m.Multihop})
	}
}

// pick lists the sessions that are wanted.
func (s *Speaker) pick(isWanted func(*member) bool) (picked []*member) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.byName {
		if isWanted(m) {
			picked = append(picked, m)
		}
	}
	return picked
}

// listen has the receivers that the sessions need, and no other.
func (s *Speaker) listen(want []Session) error {
	needed := map[port]bool{}
	for _, w := range want {
		needed[port{w.Neighbour.Is6(), w.Multihop}] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, r := range s.receivers {
		if !needed[at] {
			delete(s.receivers, at)
			r.close()
		}
	}
	var failed []error
	for at := range needed {
		if s.receivers[at] != nil {
			continue
		}
		r, err := openReceiver(at.isSix, s.portNumber(at.multihop))
		if err != nil {
			failed = append(failed, err)
			continue
		}
		s.receivers[at] = r
		s.readers.Go(func() { s.readFrom(r, at.multihop) })
	}
	return errors.Join(failed...)
}

// TryPorts is why sessions could not have their ports at this moment, nil if they
// could.
func TryPorts(want []Session) error {
	s := NewSpeaker(nil)
	err := s.listen(want)
	_ = s.listen(nil) // opens nothing, so nothing fails
	s.readers.Wait()
	return err
}

func (s *Speaker) portNumber(multihop bool) uint16 {
	if multihop {
		return s.ports[1]
	}
	return s.ports[0]
}

// add begins a session.
func (s *Speaker) add(w Session) {
	local := rand.Uint32()
	s.mu.RLock()
	for local == 0 || s.locals[local] {
		local = rand.Uint32()
	}
	s.mu.RUnlock()
	s.begin(w, local, nil)
}

// begin begins a session, or carries on a predecessor's.
func (s *Speaker) begin(w Session, local uint32, inherited *Memory) {
	out := &sender{from: w.Source, to: netip.AddrPortFrom(w.Neighbour, s.portNumber(w.Multihop)), ttl: w.TTL}
	m := &member{sender: out}
	m.session = newSession(w, local, m.sendToNeighbour, s.report)
	m.inherited = inherited
	s.mu.Lock()
	s.byName[w.Name], s.byPeer[peer{w.Neighbour, w.Multihop}], s.locals[local] = m, m, true
	s.mu.Unlock()
	if inherited != nil {
		m.status.State, m.status.NeighbourState = Up, Up
		s.report(m.status)
	}
	go m.run()
}

// sendToNeighbour sends a packet to the neighbour. As long as the session is not up, the host
// may still get the address that the neighbour knows.
func (m *member) sendToNeighbour(b []byte) error {
	if state := m.current().State; state == Down || state == Init {
		m.sender.followRoutes()
	}
	return m.sender.send(b)
}

// readFrom hands the packets of a port to their sessions until it is closed.
func (s *Speaker) readFrom(r *receiver, multihop bool) {
	var b [packetLen + 256]byte // with what other versions and authentication may add
	for {
		d, err := r.read(b[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		m := s.with(peer{d.from, multihop})
		if m == nil {
			continue
		}
		switch p, err := Parse(d.payload); {
		case err != nil:
			m.refuse(err)
		case !m.acceptsTTL(d.ttl):
			m.refuse(fmt.Errorf("TTL %d, want %d at least (max_hops)", d.ttl, int(m.TTL)-int(m.MaxHops)))
		default:
			m.deliver(p)
		}
	}
}

// with returns the session with a neighbour; there is one at most, so that a packet
// that names another session is that one's to discard (RFC 5880 section 6.8.6).
func (s *Speaker) with(from peer) *member {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byPeer[from]
}
