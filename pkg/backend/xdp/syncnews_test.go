package xdp

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// However many sets a flood of SYNs with their ACKs has noted, all that was seen at
// work is told of at once.
func TestFloodHidesNoNews(t *testing.T) {
	const made, proven = 2000, 50
	p := newPairOf(t, lb.State{Services: []lb.Service{webService(2)}}, 8192)
	for i := range made {
		for _, flags := range []string{"S", "A"} {
			p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(i), Dst: web, Flags: flags})
		}
	}
	for i := range proven {
		p.a.open(at(made+i), web)
	}
	p.a.news.limits.noted, p.a.news.limits.unproven = 2*proven, 10
	atWork := 0
	for _, e := range p.a.takeNews().Entries() {
		if e.IsProven {
			atWork++
		}
	}
	if atWork != proven {
		t.Errorf("told of %d connections that were seen at work, want %d", atWork, proven)
	}
	if p.a.hasNotesLeft() {
		t.Error("notes are left behind a round")
	}
}

// Who asks for news of a sync that has been begun anew takes nothing from it, and
// each connection is told of.
func TestSyncBegunAnew(t *testing.T) {
	const count = 50
	h := newStill(t, 1024, 1024)
	h.apply(lb.State{Services: []lb.Service{webService(2)}})
	clients := map[netip.AddrPort]bool{}
	collectClients := func(b *connsync.Batch) {
		for _, e := range b.Entries() {
			clients[e.Client] = true
		}
	}
	old, stop := h.TellNews(collectClients)
	stop()
	now, stop := h.TellNews(collectClients)
	for i := range count {
		h.open(at(i), web)
	}
	var asking sync.WaitGroup
	for _, ask := range []func() bool{old, now} {
		asking.Go(func() {
			for range 100 {
				ask()
			}
		})
	}
	asking.Wait()
	stop()
	if len(clients) != count {
		t.Errorf("told of %d connections, want %d", len(clients), count)
	}
}

// A connection that a peer tells of, which is at another real than its row's, unsettles
// its own row and no other, wherever its table lies.
func TestToldConnectionsUnsettleTheirRows(t *testing.T) {
	for name, piecesFrom := range map[string]int{"plain": 0, "in pieces": 1} {
		t.Run(name, func(t *testing.T) {
			s := webService6(3)
			s.Scheduler, s.Stateless = lb.MH, true
			h := openHarness(t, Options{Flows: 1024, Templates: 1024, StillClock: true, IPv6: true, PiecesFrom: piecesFrom})
			x := &six{h, h.dp.Program("lvx0")}
			x.hosts(9)
			x.apply(lb.State{Services: []lb.Service{s}})
			svc := h.services[s.Name]
			clear(svc.elsewhere)
			want := make([]bool, svc.rowsIn())
			var entries []connsync.Entry
			for n := range 500 {
				row := svc.rowOf(at6(n).Addr(), at6(n).Port())
				here := h.addressOf(bpf.RowValue(load64(h.row(svc, row))).Real())
				real := s.Reals[0].Addr
				if real == here {
					real = s.Reals[1].Addr
				}
				want[row] = true
				entries = append(entries, connsync.Entry{IsProven: true, Record: connsync.Record{
					Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Client: at6(n), Virtual: web6, Real: netip.AddrPortFrom(real, 80),
				}})
			}
			// Neighbours are of one set, also where one is the last of what is stored at once.
			names, sets := resolver{b: h.Backend}, uint32(h.flowTables()[1].sets())
			first := func(e connsync.Entry) uint32 {
				kind := h.kindOf(&names, &e)
				a, _ := h.flowOf(&kind, &e, e.Client, 0, h.now())
				return bpf.TwoSets(a.Hash, sets)[0]
			}
			slices.SortFunc(entries, func(a, b connsync.Entry) int { return cmp.Compare(first(a), first(b)) })
			if rejected, err := h.Absorb(connsync.BatchOf(entries...)); err != nil || rejected > 0 {
				t.Fatal(rejected, err)
			}
			for row, is := range svc.elsewhere {
				if is != want[row] {
					t.Errorf("row %d is said to have a connection elsewhere: %v", row, is)
				}
			}
		})
	}
}

// What is told of at once, of every kind of table as much as there may be, fits the
// queue of an idle peer.
func TestNewsFitTheQueueOfAPeer(t *testing.T) {
	const clients = notedNews + 1000
	s := webService(2)
	s.Persistence.Timeout = time.Minute
	h := newStill(t, 4*clients, 4*clients)
	h.apply(lb.State{Services: []lb.Service{s}})
	h.tellOnRequest()
	for i := range clients {
		h.open(netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)}), 1000), web)
	}
	h.Sweep()
	if n := len(h.takeNews().Members); n <= 2*notedNews || n > connsync.MostNews {
		t.Errorf("%d entries (%d to %d)", n, 2*notedNews, connsync.MostNews)
	}
}
