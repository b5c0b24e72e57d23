package connsync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Table is what sessions read entries from and put entries into: the flow
// table of a backend. Its methods are called by several goroutines at once.
type Table interface {
	// Walk calls yield with every connection and template that lives, some
	// at a time, and stops at yield's error, which it returns.
	Walk(ctx context.Context, yield func(*Batch) error) error

	// Absorb takes what a peer has sent, and reports how many entries it
	// did not take.
	Absorb(*Batch) (rejected int, err error)

	// ChangedRows are the rows that peers cannot make of the entries, of each
	// service that has some. AbsorbRows takes those of a peer's service, and keeps the slice.
	ChangedRows() []Rows
	AbsorbRows(rows Rows)

	// Missed is another number once something is known here of which peers
	// have told before, in vain: they have to tell of everything again.
	Missed() uint64
}

// Times and sizes of a session.
const (
	aliveInterval = time.Second     // between frames when there is nothing to say
	aliveTimeout  = 5 * time.Second // without a frame, or with a write that does not end: the peer is dead
	maxQueued     = MostNews        // entries; beyond it they are dropped, and the table is walked again
	batchEntries  = 4000            // entries of a frame
	maxUnacked    = 1 << 16         // frames of entries that the peer has not said it has
	lagSamples    = 1 << 10         // acknowledgements that the lag is taken from
	handshakeTime = 3 * time.Second // for TLS and the first frame
	redialPause   = time.Second     // between attempts to reach a peer
	digestMaxName = 255             // bytes of a service's name in a digest
	digestSumLen  = 8               // bytes of a digest
)

// session is one authenticated connection with a peer: what changes here is
// told there and the other way round, after a walk over the whole table in each
// direction.
type session struct {
	conn    net.Conn
	proof   proof  // of the key that the peer signs with
	version uint16 // of the protocol that the peer speaks
	table   Table

	wake chan struct{} // something for the writer to do

	mu         sync.Mutex
	why        error // that this end has ended it; nil: it has not
	queue      []entryFrame
	queued     int         // entries in queue
	overflowed bool        // entries were dropped, here or there: only another walk makes the peer complete
	digests    []Digest    // to be sent, nil: nothing new
	acked      uint64      // frames of entries that the peer has absorbed
	unacked    []time.Time // when each frame behind them was sent
	lags       []time.Duration

	absorbed   atomic.Uint64 // frames of entries taken from the peer
	ackSent    uint64        // by the writer alone
	sent       atomic.Uint64
	received   atomic.Uint64
	rejected   atomic.Uint64
	complete   atomic.Bool   // the peer's walk has been absorbed whole
	asks       atomic.Uint64 // questions to the peer, see [session.ask]
	askSent    uint64        // by the writer alone
	doubted    atomic.Uint64 // the latest ask behind which the peer has said everything
	answered   atomic.Uint64 // the latest ask that the peer has answered
	answers    atomic.Uint64 // the peer's latest ask
	answerSent uint64        // by the writer alone
	missed     atomic.Uint64 // of the table when the peer was last asked for a walk
	walked     atomic.Bool   // our walk has been sent whole
	changed    broadcast     // an answer has come, or our walk has been sent whole
	ended      chan struct{} // closed when the session has ended
	onDigests  func([]Digest)
	onState    func()
	tellNow    func() // publishes what is new in the table
}

func newSession(conn net.Conn, table Table, onDigests func([]Digest), onState func()) *session {
	return &session{
		conn: conn, version: protocolNow, table: table, wake: make(chan struct{}, 1), ended: make(chan struct{}), onDigests: onDigests, onState: onState,
		tellNow: func() {},
	}
}

// greet exchanges the frames that begin a session. Only then does each end
// know that the other holds a key and speaks its language, and which version.
func greet(conn net.Conn) (version uint16, err error) {
	hello := binary.BigEndian.AppendUint16(nil, protocolNow)
	if err := writeFrame(conn, frameHello, binary.BigEndian.AppendUint16(hello, protocolOldest)); err != nil {
		return 0, err
	}
	kind, body, _, err := readFrame(conn, nil)
	if err != nil {
		return 0, err
	}
	if kind != frameHello || len(body) < 4 {
		return 0, fmt.Errorf("frame of type %d and %d bytes where a hello was expected", kind, len(body))
	}
	if oldest := binary.BigEndian.Uint16(body[2:]); oldest > protocolNow {
		return 0, refusal{fmt.Sprintf("the peer speaks version %d of the session protocol and later, this lvx %d", oldest, protocolNow), "upgrade lvx here"}
	}
	return min(binary.BigEndian.Uint16(body), protocolNow), nil
}

// run speaks with the peer until ctx ends or the session breaks, and closes
// the connection.
func (s *session) run(ctx context.Context) error {
	defer close(s.ended)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.read() })
	g.Go(func() error { return s.write(ctx) })
	g.Go(func() error { return s.keepAlive(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		return s.conn.Close() // ends both
	})
	err := g.Wait()
	s.mu.Lock()
	why := s.why
	s.mu.Unlock()
	switch {
	case why != nil:
		return why
	case errors.Is(err, net.ErrClosed):
		return ctx.Err()
	}
	return err
}

// end ends the session from this end.
func (s *session) end(why error) {
	s.mu.Lock()
	s.why = why
	s.mu.Unlock()
	_ = s.conn.Close()
}

// isInSync reports whether everything that the peer had to say has been
// absorbed.
func (s *session) isInSync() bool {
	return s.complete.Load() && s.answered.Load() >= s.doubted.Load() && s.missed.Load() == s.table.Missed()
}

// ask asks the peer for a word. It is sent behind the entries that are queued now
// and answered behind those that the peer has queued when it comes: the answer
// says that each end has absorbed what the other had to say.
func (s *session) ask() (number uint64) {
	number = s.asks.Add(1)
	s.wakeWriter()
	return number
}

// doubt takes the session for out of step until the peer has answered: what it
// said meanwhile may still be on its way.
func (s *session) doubt() {
	number := s.ask()
	for was := s.doubted.Load(); was < number && !s.doubted.CompareAndSwap(was, number); was = s.doubted.Load() {
	}
}

// flush waits until the peer has absorbed everything that was published, and
// the walk if one is under way.
func (s *session) flush(ctx context.Context) error {
	if err := s.await(ctx, s.walked.Load); err != nil {
		return err
	}
	number := s.ask()
	return s.await(ctx, func() bool { return s.answered.Load() >= number })
}

// await waits until is holds, or the session or ctx ends.
func (s *session) await(ctx context.Context, is func() bool) error {
	for {
		next := s.changed.next()
		if is() {
			return nil
		}
		select {
		case <-next:
		case <-s.ended:
			return net.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish queues frames of so many entries for the peer. It keeps the frames.
func (s *session) publish(frames []entryFrame, count int) {
	s.mu.Lock()
	if s.queued+count > maxQueued {
		s.queue, s.queued, s.overflowed = nil, 0, true
		s.walked.Store(false)
	} else {
		s.queue, s.queued = append(s.queue, frames...), s.queued+count
	}
	s.mu.Unlock()
	s.wakeWriter()
}

func (s *session) sendDigests(d []Digest) {
	s.mu.Lock()
	s.digests = d
	s.mu.Unlock()
	s.wakeWriter()
}

func (s *session) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
