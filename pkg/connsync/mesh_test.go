package connsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is a table in memory.
type memory struct {
	mu      sync.Mutex
	entries map[netip.AddrPort]Entry
	block   chan struct{} // if not nil, Absorb waits until it is closed
	missed  uint64
	rows    []Rows // told to peers
	taken   []Rows // told by peers
}

func (m *memory) ChangedRows() []Rows { return m.rows }

func (m *memory) AbsorbRows(rows Rows) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken = append(m.taken, rows)
}

func (m *memory) Missed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.missed
}

func newMemory(clients ...string) *memory {
	m := &memory{entries: map[netip.AddrPort]Entry{}}
	for _, c := range clients {
		e := entryOf(c)
		m.entries[e.Client] = e
	}
	return m
}

func entryOf(client string) Entry {
	return Entry{
		Record: Record{
			Protocol: ProtocolTCP, Flags: active, State: StateEstablished, Timeout: 900 * time.Second,
			Client: at(client), Virtual: at("10.0.0.100:80"), Real: at("10.0.0.5:80"),
		},
		Idle: 7 * time.Second, IsProven: true,
	}
}

func (m *memory) Walk(ctx context.Context, yield func(*Batch) error) error {
	m.mu.Lock()
	var all []Entry
	for _, e := range m.entries {
		all = append(all, e)
	}
	m.mu.Unlock()
	for part := range slices.Chunk(all, max(3, len(all)/1000)) {
		if err := yield(BatchOf(part...)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memory) Absorb(batch *Batch) (int, error) {
	m.mu.Lock()
	block := m.block
	m.mu.Unlock()
	if block != nil {
		<-block
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range batch.Entries() {
		m.entries[e.Client] = e
	}
	return 0, nil
}

// count is how many entries m has.
func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.entries)
}

func (m *memory) has(clients ...string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range clients {
		if m.entries[at(c)].Client != at(c) {
			return false
		}
	}
	return true
}

var (
	keyA  = Key{1}
	keyB  = Key{2}
	one   = netip.MustParseAddr("127.0.0.11")
	two   = netip.MustParseAddr("127.0.0.12")
	three = netip.MustParseAddr("127.0.0.13")
)

// freePort is a TCP port that nobody uses on the loopback addresses of the
// tests.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// start runs a mesh until the test ends.
func start(t *testing.T, port uint16, table Table, local netip.Addr, keys []Key, peers ...netip.Addr) *Mesh {
	t.Helper()
	return startOf(t, Options{Local: []netip.Addr{local}, Peers: peers, Port: port, Keys: keys, Table: table})
}

func startOf(t *testing.T, o Options) *Mesh {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	m, err := NewMesh(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("mesh of %s: %v", o.Local, err)
		}
	})
	return m
}

// eventually waits until is holds.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestPairTellsWhatWasThereAndWhatComes(t *testing.T) {
	port := freePort(t)
	a, b := newMemory("172.16.0.1:1", "172.16.0.2:2", "172.16.0.3:3", "172.16.0.4:4"), newMemory("172.16.0.9:9")
	a.rows = []Rows{someRows()}
	ma := start(t, port, a, one, []Key{keyA}, two)
	mb := start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "both are in sync", func() bool { return ma.InSync() && mb.InSync() })
	if !b.has("172.16.0.1:1", "172.16.0.2:2", "172.16.0.3:3", "172.16.0.4:4") || !a.has("172.16.0.9:9") {
		t.Fatalf("in sync, but not whole: %v, %v", a.entries, b.entries)
	}
	if got, want := b.entries[at("172.16.0.1:1")], entryOf("172.16.0.1:1"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("entry %+v (%+v)", got, want)
	}
	if fmt.Sprint(b.taken) != fmt.Sprint(a.rows) || a.taken != nil {
		t.Errorf("rows %+v and %+v (%+v)", b.taken, a.taken, a.rows)
	}
	ma.Publish(BatchOf(entryOf("172.16.0.5:5")))
	mb.Publish(BatchOf(entryOf("172.16.0.8:8")))
	eventually(t, "news have come", func() bool { return b.has("172.16.0.5:5") && a.has("172.16.0.8:8") })
	eventually(t, "news are acknowledged", func() bool { return ma.Status()[0].Lag > 0 })
	if st := ma.Status()[0]; !st.IsUp || !st.IsInSync || st.Sent < 5 || st.Received < 2 || st.Reason != "" {
		t.Errorf("status %+v", st)
	}
}

// Three directors tell each other of what each had and of what comes to each:
// 1,000 entries, and LVX_SYNC_MESH=100000 as many.
func TestMeshOfThree(t *testing.T) {
	port, count := freePort(t), numberOf(t, "LVX_SYNC_MESH", 1000)
	addrs := []netip.Addr{one, two, three}
	entries := func(director, first int) (all []Entry) {
		e := entryOf("172.16.0.1:1")
		for n := first; n < first+count; n++ {
			e.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(director), byte(n >> 8), byte(n)}), uint16(n>>16+1))
			all = append(all, e)
		}
		return all
	}
	var tables []*memory
	var meshes []*Mesh
	for i := range addrs {
		tables = append(tables, newMemory())
		if _, err := tables[i].Absorb(BatchOf(entries(i, 0)...)); err != nil {
			t.Fatal(err)
		}
		others := slices.Delete(slices.Clone(addrs), i, i+1)
		meshes = append(meshes, start(t, port, tables[i], addrs[i], []Key{keyA}, others...))
	}
	haveAll := func(of int) func() bool {
		return func() bool {
			return !slices.ContainsFunc(tables, func(m *memory) bool { return m.count() != of })
		}
	}
	areInSync := func() bool {
		return !slices.ContainsFunc(meshes, func(m *Mesh) bool { return !m.InSync() })
	}
	eventually(t, "all three are in sync", areInSync)
	if !haveAll(3 * count)() {
		t.Errorf("in sync, but not whole: %d, %d and %d entries of %d", tables[0].count(), tables[1].count(), tables[2].count(), 3*count)
	}
	for i, m := range meshes {
		news := entries(i, count)
		if _, err := tables[i].Absorb(BatchOf(news...)); err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(news, 1000) {
			m.Publish(BatchOf(part...))
		}
	}
	eventually(t, "all three have what has come to each", haveAll(6*count))
	eventually(t, "all three are in sync again", areInSync)
}

func TestKeysAreChangedWithoutAGap(t *testing.T) {
	for name, keys := range map[string][2][]Key{
		"new one appended on one":  {{keyA, keyB}, {keyA}},
		"new one first on one":     {{keyB, keyA}, {keyA, keyB}},
		"old one removed from one": {{keyB}, {keyB, keyA}},
	} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			ma := start(t, port, newMemory(), one, keys[0], two)
			start(t, port, newMemory(), two, keys[1], one)
			eventually(t, "in sync", ma.InSync)
		})
	}
}

// A key is changed while the session stands: it goes on for as long as its keys
// are accepted, is made anew when one is removed, and a director that holds the
// removed key alone is out.
func TestKeysAreChangedWhileASessionStands(t *testing.T) {
	port := freePort(t)
	a, b := newMemory("172.16.0.1:1"), newMemory("172.16.0.2:2")
	ma := start(t, port, a, one, []Key{keyA}, two)
	mb := start(t, port, b, two, []Key{keyA}, one)
	inSync := func() bool { return ma.InSync() && mb.InSync() }
	eventually(t, "both are in sync", inSync)
	set := func(m *Mesh, keys ...Key) {
		t.Helper()
		if err := m.SetKeys(keys); err != nil {
			t.Fatal(err)
		}
	}
	first := ma.peers[two].current()
	for _, keys := range [][]Key{{keyA, keyB}, {keyB, keyA}} {
		set(ma, keys...)
		set(mb, keys...)
		if ma.peers[two].current() != first || !inSync() {
			t.Fatalf("keys %d: the session has ended", len(keys))
		}
	}
	set(ma, keyB) // b's session was signed with the removed one, and b signs with the new one now
	eventually(t, "a new session", func() bool { s := ma.peers[two].current(); return s != nil && s != first && inSync() })
	set(mb, keyB)
	ma.Publish(BatchOf(entryOf("172.16.0.5:5")))
	eventually(t, "news pass", func() bool { return b.has("172.16.0.5:5") })
	if st := ma.Status()[0]; st.Key != mb.Key() || st.Key != ma.Key() || st.Key == "" {
		t.Errorf("keys named: the peer's %q, its own word %q, ours %q", st.Key, mb.Key(), ma.Key())
	}

	set(mb, keyA) // as one who has found the old key would
	eventually(t, "the holder of the removed key is out, and both say why", func() bool {
		return !ma.InSync() && strings.Contains(ma.Status()[0].Reason, "key") && strings.Contains(mb.Status()[0].Reason, "key")
	})
	if err := ma.SetKeys(nil); err == nil {
		t.Error("no key at all was taken")
	}
}

func TestForeignKeyIsRefusedOnBothSides(t *testing.T) {
	port := freePort(t)
	a, b := newMemory("172.16.0.1:1"), newMemory("172.16.0.2:2")
	ma := start(t, port, a, one, []Key{keyA}, two)
	mb := start(t, port, b, two, []Key{keyB}, one)
	eventually(t, "both say why", func() bool {
		return strings.Contains(ma.Status()[0].Reason, "key") && strings.Contains(mb.Status()[0].Reason, "key")
	})
	if a.has("172.16.0.2:2") || b.has("172.16.0.1:1") || ma.InSync() || mb.InSync() {
		t.Error("entries of a director with another key were taken")
	}
}

// A session that is in doubt is in step again once the peer has answered behind
// everything that it had to say.
func TestDoubtEndsBehindWhatThePeerHadToSay(t *testing.T) {
	port := freePort(t)
	a, b := newMemory(), newMemory()
	ma := start(t, port, a, one, []Key{keyA}, two)
	mb := start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "both are in sync", func() bool { return ma.InSync() && mb.InSync() })
	a.mu.Lock()
	a.block = make(chan struct{}) // what b says stays on its way
	a.mu.Unlock()
	mb.Publish(BatchOf(entryOf("172.16.0.8:8")))
	ma.Doubt()
	if ma.InSync() || ma.Status()[0].IsInSync {
		t.Error("in sync while in doubt")
	}
	if a.has("172.16.0.8:8") {
		t.Fatal("the entry was not on its way")
	}
	close(a.block)
	eventually(t, "the doubt has ended", ma.InSync)
	if !a.has("172.16.0.8:8") {
		t.Error("in sync before what the peer had to say was absorbed")
	}
}

// blockAbsorb keeps what a table is told on its way until release is called.
func (m *memory) blockAbsorb() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	block := make(chan struct{})
	m.block = block
	return func() {
		m.mu.Lock()
		m.block = nil
		m.mu.Unlock()
		close(block)
	}
}

// A flush has ended when every peer has absorbed what was published before, and
// not before; a peer without a session is not waited for.
func TestFlushEndsWhenPeersHaveEverything(t *testing.T) {
	port := freePort(t)
	a, b := newMemory(), newMemory()
	ma := start(t, port, a, one, []Key{keyA}, two, three)
	start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "in sync with the one that is there", func() bool { return ma.Status()[0].IsInSync })
	release := b.blockAbsorb()
	ma.Publish(BatchOf(entryOf("172.16.0.8:8")))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ma.Flush(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), two.String()) {
		t.Errorf("while the entry is on its way: %v", err)
	}
	if st := ma.Status()[0]; !st.IsInSync {
		t.Error("a flush has made the session one in doubt")
	}
	time.AfterFunc(20*time.Millisecond, release)
	if err := ma.Flush(t.Context()); err != nil || !b.has("172.16.0.8:8") {
		t.Errorf("flushed, and the peer has %v: %v", b.entries, err)
	}
}

// A flush ends with the session of a peer that dies.
func TestFlushEndsWithTheSession(t *testing.T) {
	port := freePort(t)
	b := newMemory()
	ma := start(t, port, newMemory(), one, []Key{keyA}, two)
	start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "in sync", ma.InSync)
	release := b.blockAbsorb()
	defer release()
	ma.Publish(BatchOf(entryOf("172.16.0.8:8")))
	time.AfterFunc(20*time.Millisecond, func() { ma.peers[two].current().end(errors.New("cut")) })
	if err := ma.Flush(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("behind the end of the session: %v", err)
	}
}

// Who asks is told what is new in the table at that moment, too.
func TestAnswerComesBehindTheLatestNews(t *testing.T) {
	port := freePort(t)
	a := newMemory()
	ma := start(t, port, a, one, []Key{keyA}, two)
	var mb *Mesh
	isMade := make(chan struct{})
	mb = startOf(t, Options{
		Local: []netip.Addr{two}, Peers: []netip.Addr{one}, Port: port, Keys: []Key{keyA}, Table: newMemory(),
		TellNow: func() {
			<-isMade
			mb.Publish(BatchOf(entryOf("172.16.0.8:8")))
		},
	})
	close(isMade)
	eventually(t, "in sync", ma.InSync)
	ma.Doubt()
	eventually(t, "the doubt has ended", ma.InSync)
	if !a.has("172.16.0.8:8") {
		t.Error("in sync without what was new when the peer was asked")
	}
}

// A peer that had to drop what it had to say does not answer before it has said
// it by another walk.
func TestAnswerComesBehindAnotherWalk(t *testing.T) {
	port := freePort(t)
	a, b := newMemory(), newMemory("172.16.0.1:1")
	ma := start(t, port, a, one, []Key{keyA}, two)
	mb := start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "both are in sync", func() bool { return ma.InSync() && mb.InSync() })
	b.mu.Lock()
	b.entries[at("172.16.0.7:7")] = entryOf("172.16.0.7:7")
	b.mu.Unlock()
	s := mb.peers[one].current()
	s.mu.Lock()
	s.queue, s.queued, s.overflowed = nil, 0, true
	s.mu.Unlock()
	ma.Doubt()
	eventually(t, "the doubt has ended", ma.InSync)
	if !a.has("172.16.0.7:7") {
		t.Error("in sync without what the peer had dropped")
	}
}

// A table that could not take what it was told is told of everything again once
// it can.
func TestMissedEntriesAreToldAgain(t *testing.T) {
	port := freePort(t)
	a, b := newMemory(), newMemory("172.16.0.1:1")
	ma := start(t, port, a, one, []Key{keyA}, two)
	start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "in sync", ma.InSync)
	a.mu.Lock()
	clear(a.entries)
	a.missed++
	a.mu.Unlock()
	eventually(t, "told again", func() bool { return a.has("172.16.0.1:1") })
	eventually(t, "in sync again", ma.InSync)
}

// A peer that does not read makes its session walk again, and nothing grows.
func TestSlowPeerIsMadeWholeByAnotherWalk(t *testing.T) {
	port := freePort(t)
	a, b := newMemory("172.16.0.1:1"), newMemory()
	b.block = make(chan struct{})
	ma := start(t, port, a, one, []Key{keyA}, two)
	start(t, port, b, two, []Key{keyA}, one)
	eventually(t, "a session", func() bool { return ma.Status()[0].IsUp })
	many := make([]Entry, maxQueued/8)
	for i := range many {
		many[i] = entryOf(fmt.Sprintf("172.17.%d.%d:9", i>>8&255, i&255))
	}
	a.mu.Lock()
	a.entries[at("172.16.0.7:7")] = entryOf("172.16.0.7:7")
	a.mu.Unlock()
	s := ma.peers[two].current()
	isFull := false
	for range 1000 { // until sockets and queue are full
		ma.Publish(BatchOf(many...))
		s.mu.Lock()
		if s.queued > maxQueued {
			t.Errorf("%d entries queued (at most %d)", s.queued, maxQueued)
		}
		isFull = s.overflowed
		s.mu.Unlock()
		if isFull {
			break
		}
	}
	if !isFull {
		t.Error("a peer that does not read has been told of everything")
	}
	close(b.block)
	eventually(t, "another walk has brought what was dropped", func() bool { return b.has("172.16.0.7:7") })
}

func TestDigestsAreCompared(t *testing.T) {
	port := freePort(t)
	ma := start(t, port, newMemory(), one, []Key{keyA}, two)
	mb := start(t, port, newMemory(), two, []Key{keyA}, one)
	ma.SetDigests([]Digest{{"web", 1}, {"dns", 2}, {"only here", 3}})
	mb.SetDigests([]Digest{{"web", 1}, {"dns", 4}})
	want := []string{"dns", "only here"}
	eventually(t, "both see what differs", func() bool {
		return slices.Equal(ma.Status()[0].Differs, want) && slices.Equal(mb.Status()[0].Differs, want)
	})
	mb.SetDigests([]Digest{{"web", 1}, {"dns", 2}, {"only here", 3}})
	eventually(t, "and that nothing does any more", func() bool { return len(ma.Status()[0].Differs) == 0 })
}

// What connects without a key, from a peer's address or another, costs the
// listener one handshake's time and nothing else.
func TestConnectionsWithoutAKeyAreHeldOff(t *testing.T) {
	port := freePort(t)
	mb := start(t, port, newMemory(), two, []Key{keyA}, one)
	dial := func(from netip.Addr) net.Conn {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		var conn net.Conn
		eventually(t, "it listens", func() (ok bool) {
			var err error
			conn, err = d.Dial("tcp", netip.AddrPortFrom(two, port).String())
			return err == nil
		})
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	silent := dial(one) // says nothing: holds the one handshake until it times out
	eventually(t, "its handshake has begun", func() bool {
		p := mb.peers[one]
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.isBusy
	})
	for range 50 {
		conn := dial(one)
		_, _ = conn.Write([]byte(strings.Repeat("\x16\x03\x01\xff\xff", 100)))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatal("a second handshake from the same address was begun")
		}
	}
	foreign := dial(three)
	if _, err := foreign.Read(make([]byte, 1)); err == nil {
		t.Error("an address that is no peer was answered")
	}
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the silent connection ended with %v (end of file after the handshake's time)", err)
	}
	ma := start(t, port, newMemory(), one, []Key{keyA}, two)
	eventually(t, "the true peer gets in", func() bool { return ma.InSync() && mb.InSync() })
}

func TestKeyFiles(t *testing.T) {
	digits := strings.Repeat("ab", keyLen)
	tests := []struct {
		name, text string
		mode       os.FileMode
		keys       int
		err        string
	}{
		{"one", digits + "\n", 0o600, 1, ""},
		{"two and a comment", "# new\n" + digits + "\n\n  " + digits[:62] + "00", 0o400, 2, ""},
		{"others can read it", digits, 0o644, 0, "chmod 600"},
		{"the group can read it", digits, 0o640, 0, "chmod 600"},
		{"too short", digits + "\n" + digits[2:], 0o600, 0, "line 2: not a key"},
		{"no hexadecimal digits", strings.Repeat("xy", keyLen), 0o600, 0, "line 1: not a key"},
		{"empty", "\n", 0o600, 0, "no key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sync.key")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			keys, err := ReadKeys(path)
			if len(keys) != test.keys || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%d keys, %v (%d, %q)", len(keys), err, test.keys, test.err)
			}
			if err != nil && strings.Contains(err.Error(), digits[:8]) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// Whatever a body of entries holds, it is read within its bounds, and what is
// read can be told again.
func FuzzEntries(f *testing.F) {
	b, err := appendEntry(nil, new(entryOf("172.16.0.1:1")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, b...))
	f.Add([]byte{0, 3, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, _ := parseEntries(nil, b)
		for _, e := range entries {
			again, err := appendEntry(nil, &e)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := parseEntries(nil, again); err != nil || len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(e) {
				t.Fatalf("%+v, %v (%+v)", got, err, e)
			}
		}
	})
}
