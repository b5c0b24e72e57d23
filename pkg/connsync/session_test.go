package connsync

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fedConn is a connection whose other end has sent bytes and then closed it.
type fedConn struct {
	net.Conn
	*bytes.Reader
}

func (c fedConn) Read(b []byte) (int, error)    { return c.Reader.Read(b) }
func (fedConn) SetReadDeadline(time.Time) error { return nil }

// countTable takes entries and keeps none.
type countTable struct {
	Table
	taken int
	rows  int
}

func (t *countTable) Absorb(batch *Batch) (int, error) {
	t.taken += len(batch.Members)
	return 0, nil
}

func (t *countTable) AbsorbRows(rows Rows) { t.rows += len(rows.Changed) }

func frameOf(kind uint8, body ...byte) []byte {
	var b bytes.Buffer
	if err := writeFrame(&b, kind, body); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Whatever a peer says that holds a key, a session reads it within its bounds:
// it ends with an error or with the connection, and nothing that it keeps is
// larger than what was said.
func FuzzSession(f *testing.F) {
	entries, err := appendEntry(nil, new(entryOf("172.16.0.1:1")))
	if err != nil {
		f.Fatal(err)
	}
	ack := binary.BigEndian.AppendUint64(nil, 2)
	f.Add(frameOf(frameEntries, entries...))
	batch, err := batchFrames(BatchOf(someEntries(6)...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(batch[0].bytes)
	f.Add(append(frameOf(frameSnapshot, 0), frameOf(frameSnapshot, 1)...))
	f.Add(append(frameOf(frameAck, ack...), frameOf(frameAlive)...))
	f.Add(frameOf(frameDigest, appendDigests(nil, []Digest{{"web", 1}, {"", 2}})...))
	f.Add(append(frameOf(frameAsk, ack...), frameOf(frameAnswer, ack...)...))
	f.Add(append(frameOf(frameAgain), frameOf(frameAgain, 1)...))
	f.Add(frameOf(frameRows, appendRows(nil, new(someRows()))...))
	f.Add(frameOf(99, 1, 2, 3)) // of a later release
	f.Add([]byte{frameEntries, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		table := &countTable{}
		digests := 0
		s := newSession(fedConn{Reader: bytes.NewReader(b)}, table, func(d []Digest) { digests = len(d) }, func() {})
		s.unacked = []time.Time{time.Now(), time.Now()}
		if err := s.read(); err == nil {
			t.Fatal("a session went on behind its end")
		}
		if memberLen4*table.taken > len(b) || rowLen*table.rows > len(b) || 9*digests > len(b) || len(s.lags) > 2 {
			t.Fatalf("%d entries, %d digests, %d acknowledgements of %d bytes", table.taken, digests, len(s.lags), len(b))
		}
	})
}

// A frame of a type that a later release has is passed over, and so is what
// follows the known part of a hello and of an entry: two releases share
// connections.
func TestLaterReleaseIsUnderstood(t *testing.T) {
	entry, err := appendEntry(nil, new(entryOf("172.16.0.1:1")))
	if err != nil {
		t.Fatal(err)
	}
	longer := append(bytes.Clone(entry), 1, 2, 3, 4) // with more behind it
	binary.BigEndian.PutUint16(longer, uint16(len(longer)-2))
	said := bytes.Join([][]byte{
		frameOf(200, 9, 9, 9), frameOf(frameEntries, longer...), frameOf(frameSnapshot, 1, 7), frameOf(frameEntries, entry...),
	}, nil)
	table := newMemory()
	s := newSession(fedConn{Reader: bytes.NewReader(said)}, table, nil, func() {})
	if err := s.read(); err == nil || s.received.Load() != 2 || !s.complete.Load() || !table.has("172.16.0.1:1") {
		t.Errorf("%v: %d entries, whole %t, %v", err, s.received.Load(), s.complete.Load(), table.entries)
	}
}

// Two releases agree on a session if the later one still understands the
// earlier: a later one may have a longer hello and a higher version.
func TestVersionsOfTwoReleases(t *testing.T) {
	for name, test := range map[string]struct {
		hello []byte
		ok    bool
	}{
		"this release":                      {[]byte{0, protocolNow, 0, protocolOldest}, true},
		"the next, which understands this":  {[]byte{0, protocolNow + 1, 0, protocolNow, 1, 2}, true},
		"one that has left this one behind": {[]byte{0, protocolNow + 2, 0, protocolNow + 1}, false},
		"too short to say":                  {[]byte{0, 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer ours.Close()
			defer theirs.Close()
			go func() {
				_, _, _, _ = readFrame(theirs, nil)
				_ = writeFrame(theirs, frameHello, test.hello)
			}()
			if _, err := greet(ours); (err == nil) != test.ok || errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
		})
	}
}

// deafConn takes whatever is written.
type deafConn struct{ net.Conn }

func (deafConn) Write(b []byte) (int, error)      { return len(b), nil }
func (deafConn) SetWriteDeadline(time.Time) error { return nil }

// A peer that reads and never acknowledges costs bounded memory: its session
// ends.
func TestPeerThatNeverAcknowledges(t *testing.T) {
	s := newSession(deafConn{}, nil, nil, nil)
	entry := BatchOf(entryOf("172.16.0.1:1"))
	for n := range maxUnacked {
		if err := s.sendBatch(entry); err != nil {
			t.Fatalf("frame %d: %v", n, err)
		}
	}
	if err := s.sendBatch(entry); err == nil {
		t.Errorf("%d frames without an acknowledgement", len(s.unacked))
	}
}

// emptyTable takes its time to find out that it is empty.
type emptyTable struct{ countTable }

func (t *emptyTable) ChangedRows() []Rows { return nil }
func (t *emptyTable) Missed() uint64      { return 0 }

func (t *emptyTable) Walk(ctx context.Context, _ func(*Batch) error) error {
	time.Sleep(3 * aliveTimeout)
	return ctx.Err()
}

// A walk that has nothing to tell of for longer than a peer waits is no silence:
// else the session would end, and the next one, too.
func TestLongWalkKeepsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var sessions []*session
		for _, conn := range []net.Conn{a, b} {
			s := newSession(conn, &emptyTable{}, func([]Digest) {}, func() {})
			sessions = append(sessions, s)
			running.Go(func() { _ = s.run(ctx) })
		}
		time.Sleep(4 * aliveTimeout)
		for i, s := range sessions {
			select {
			case <-s.ended:
				t.Errorf("session %d has ended", i)
			default:
			}
			if !s.isInSync() {
				t.Errorf("session %d is not in sync", i)
			}
		}
		cancel()
		running.Wait()
	})
}

// writtenConn keeps what is written.
type writtenConn struct {
	deafConn
	written bytes.Buffer
}

func (c *writtenConn) Write(b []byte) (int, error) { return c.written.Write(b) }

// walkedTable is empty, and something happens while it is walked.
type walkedTable struct {
	emptyTable
	missed     uint64
	whileWalks func()
}

func (t *walkedTable) Missed() uint64 { return t.missed }

func (t *walkedTable) Walk(ctx context.Context, _ func(*Batch) error) error {
	t.whileWalks()
	return ctx.Err()
}

// A peer is complete by a walk of which nothing was dropped, and which the peer has
// not asked to have again: not by one before that.
func TestWalkThatLeavesThePeerIncomplete(t *testing.T) {
	for name, happens := range map[string]func(*session){
		"entries are dropped": func(s *session) { s.publish(nil, maxQueued+1) },
		"the peer asks again": func(s *session) { s.tellAgain() },
	} {
		t.Run(name, func(t *testing.T) {
			conn, table := &writtenConn{}, &walkedTable{}
			s := newSession(conn, table, nil, func() {})
			marks := func(walk func(context.Context) error) (said []byte) {
				t.Helper()
				if err := walk(t.Context()); err != nil {
					t.Fatal(err)
				}
				for conn.written.Len() > 0 {
					kind, body, _, err := readFrame(&conn.written, nil)
					if err != nil {
						t.Fatal(err)
					}
					if kind == frameSnapshot {
						said = append(said, body...)
					}
				}
				return said
			}
			table.whileWalks = func() { happens(s) }
			if said := marks(s.walk); !bytes.Equal(said, []byte{0}) || s.walked.Load() {
				t.Errorf("marks %v, whole: %t (only that a walk has begun)", said, s.walked.Load())
			}
			table.whileWalks = func() {}
			if said := marks(s.catchUp); !bytes.Equal(said, []byte{0, 1}) || !s.walked.Load() {
				t.Errorf("another walk: marks %v, whole: %t", said, s.walked.Load())
			}
		})
	}
}

// Who has asked a peer to tell of everything again is not in step by the end of the
// walk that was under way then.
func TestInStepByTheWalkThatWasAskedFor(t *testing.T) {
	table := &walkedTable{missed: 1}
	s := newSession(deafConn{}, table, nil, func() {})
	if err := s.askAgain(); err != nil {
		t.Fatal(err)
	}
	hear := func(kind uint8, body ...byte) {
		t.Helper()
		if err := s.handle(kind, body, new(Batch)); err != nil {
			t.Fatal(err)
		}
	}
	hear(frameSnapshot, 1)
	if s.isInSync() {
		t.Error("in step by the walk before")
	}
	hear(frameSnapshot, 0)
	hear(frameSnapshot, 1)
	hear(frameAnswer, binary.BigEndian.AppendUint64(nil, s.asks.Load())...)
	if !s.isInSync() {
		t.Error("not in step behind the peer's answer")
	}
}
