package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// quietTable tells news only when it is asked to.
type quietTable struct {
	mu    sync.Mutex
	news  []connsync.Entry // not told yet
	taken map[netip.AddrPort]bool

	expects []time.Duration // how long news were expected for
}

func (t *quietTable) Walk(context.Context, func(*connsync.Batch) error) error { return nil }

func (t *quietTable) ChangedRows() []connsync.Rows { return nil }

func (t *quietTable) AbsorbRows(connsync.Rows) {}

func (t *quietTable) Missed() uint64 { return 0 }

func (t *quietTable) Absorb(batch *connsync.Batch) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range batch.Entries() {
		t.taken[e.Client] = true
	}
	return 0, nil
}

func (t *quietTable) TellNews(send func(*connsync.Batch)) (now func() (more bool), stop func()) {
	return func() bool {
		t.mu.Lock()
		entries := t.news
		t.news = nil
		if len(entries) > 1 {
			entries, t.news = entries[:1], entries[1:]
		}
		more := len(t.news) > 0
		t.mu.Unlock()
		if len(entries) > 0 {
			send(connsync.BatchOf(entries...))
		}
		return more
	}, func() {}
}

func (t *quietTable) ExpectNews(d time.Duration) error {
	t.expects = append(t.expects, d)
	return nil
}

// open makes a connection of each client that nobody was told of.
func (t *quietTable) open(clients ...netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range clients {
		t.news = append(t.news, connsync.Entry{Record: connsync.Record{
			Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Client: c,
			Virtual: netip.MustParseAddrPort("192.0.2.100:80"), Real: netip.MustParseAddrPort("192.0.2.11:80"),
		}})
	}
}

func (t *quietTable) has(clients ...netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range clients {
		if !t.taken[c] {
			return false
		}
	}
	return true
}

// newSyncedTables are a director that shares connections, its table and its
// peer's.
func newSyncedTables(t *testing.T) (s *connSync, ours, theirs *quietTable) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	_ = l.Close()
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.21"), netip.MustParseAddr("127.0.0.22")}
	tables := []*quietTable{{taken: map[netip.AddrPort]bool{}}, {taken: map[netip.AddrPort]bool{}}}
	log := slog.New(slog.DiscardHandler)
	s = &connSync{table: tables[0], feed: &newsFeed{table: tables[0]}, log: log, changed: make(chan struct{}, 1), masters: map[string]bool{}}
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i, addr := range addrs {
		m, err := connsync.NewMesh(connsync.Options{
			Local: []netip.Addr{addr}, Peers: addrs, Port: port, Keys: []connsync.Key{{1}}, Table: tables[i], Log: log,
			Changed: func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			s.mesh.Store(m)
		}
		running.Go(func() { _ = m.Run(ctx) })
	}
	leave := s.feed.join(s.notifyPeers)
	t.Cleanup(func() {
		leave()
		cancel()
		running.Wait()
	})
	for !s.mesh.Load().InSync() {
		<-changed
	}
	return s, tables[0], tables[1]
}

// A director that leaves has told its peers of every connection before it gives
// up its VIPs, and of those that came meanwhile when they are gone.
func TestLeavingDirectorTellsEverything(t *testing.T) {
	s, ours, theirs := newSyncedTables(t)
	var clients []netip.AddrPort
	for i := range 50 {
		clients = append(clients, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(1000+i)))
	}
	ours.open(clients[:20]...)
	end := s.leave(time.Minute)
	if !theirs.has(clients[:20]...) {
		t.Error("the VIPs go before the peer has every connection")
	}
	ours.open(clients[20:]...)
	end()
	if !theirs.has(clients...) {
		t.Error("the daemon ends before the peer has the last connections")
	}
}

// Those who want a flush while one is under way share the next one.
func TestFlushesAreShared(t *testing.T) {
	s, ours, theirs := newSyncedTables(t)
	client := netip.MustParseAddrPort("198.51.100.1:1000")
	s.flushing.Lock()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { s.flush(time.Minute) })
	}
	ours.open(client)
	s.flushing.Unlock()
	all.Wait()
	s.flush(time.Minute)
	if !theirs.has(client) {
		t.Error("flushed, and the peer does not have the connection")
	}
}

// A director that takes VIPs over expects news of the latest connections, once for each
// virtual router, and only where there is a peer that can tell.
func TestTakeoverExpectsNews(t *testing.T) {
	s, ours, _ := newSyncedTables(t)
	for _, instance := range []string{"VI_1", "VI_1", "VI_2"} { // a change of what it serves activates again
		s.takeOver(instance)
	}
	s.giveUp("VI_1")
	s.takeOver("VI_1")
	if want := []time.Duration{newsTime, newsTime, newsTime}; !slices.Equal(ours.expects, want) {
		t.Errorf("news are expected for %v, want %v", ours.expects, want)
	}
	alone := &connSync{table: ours, changed: make(chan struct{}, 1), masters: map[string]bool{}}
	alone.takeOver("VI_1")
	if len(ours.expects) != 3 {
		t.Error("news are expected where nobody has any")
	}
}

// Only who was master has something to tell at a handover: a start as backup has not.
func TestBackupTellsNothingAtAHandover(t *testing.T) {
	s, ours, theirs := newSyncedTables(t)
	client := netip.MustParseAddrPort("198.51.100.1:1000")
	ours.open(client)
	s.giveUp("VI_1")
	if theirs.has(client) {
		t.Error("told at the start")
	}
	s.takeOver("VI_1")
	s.giveUp("VI_1")
	if !theirs.has(client) {
		t.Error("not told at the handover")
	}
}
