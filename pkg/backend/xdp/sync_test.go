package xdp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// pair is two directors with the same services, each a loaded program.
type pair struct{ a, b *harness }

// another has a network namespace of its own.
type another struct{ testing.TB }

func newPair(t *testing.T, s lb.State) *pair {
	t.Helper()
	return newPairOf(t, s, 1024)
}

func newPairOf(t *testing.T, s lb.State, flows int) *pair {
	t.Helper()
	p := &pair{a: newStill(t, flows, 1024), b: newStill(another{t}, flows, 1024)}
	p.a.apply(s)
	p.b.apply(s)
	p.a.tellOnRequest()
	return p
}

// tellOnRequest has the packet path note news, for which the test asks itself:
// nothing may depend on the time.
func (h *harness) tellOnRequest() {
	_, stop := h.TellNews(func(*connsync.Batch) {})
	stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.news = h.newNews()
	h.applySettings()
}

// sync brings b what is new on a.
func (p *pair) sync(t *testing.T) []connsync.Entry {
	t.Helper()
	entries := p.a.takeNews().Entries()
	rejected, err := p.b.Absorb(connsync.BatchOf(entries...))
	must(t, err)
	if rejected != 0 {
		t.Errorf("%d of %d entries rejected", rejected, len(entries))
	}
	return entries
}

// walk is what a peer that joins is told of.
func (p *pair) walk(t *testing.T) (entries []connsync.Entry) {
	t.Helper()
	must(t, p.a.Walk(t.Context(), func(b *connsync.Batch) error {
		entries = append(entries, b.Entries()...)
		return nil
	}))
	return entries
}

func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(n >> 8), byte(n)}), uint16(1000+n))
}

// open makes a connection that is proven: SYN, ACK, data.
func (h *harness) open(src, dst netip.AddrPort) netip.Addr {
	var to netip.Addr
	for _, flags := range []string{"S", "A", "PA"} {
		to = h.Send(lb.Packet{Proto: lb.TCP, Src: src, Dst: dst, Flags: flags}).Real
	}
	return to
}

func (h *harness) data(src, dst netip.AddrPort) netip.Addr {
	return h.Send(lb.Packet{Proto: lb.TCP, Src: src, Dst: dst, Flags: "PA"}).Real
}

// A round-robin connection that one director has opened goes on through the
// other, which never saw its SYN.
func TestSyncedConnectionsGoOnElsewhere(t *testing.T) {
	s := webService(3)
	p := newPair(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	want := map[int]netip.Addr{}
	for i := range 30 {
		want[i] = p.a.open(at(i), web)
	}
	p.b.open(at(500), web) // the other director's counter stands elsewhere
	if entries := p.sync(t); len(entries) != 30 {
		t.Errorf("%d entries told (30)", len(entries))
	}
	for i := range 30 {
		if got := p.b.data(at(i), web); got != want[i] {
			t.Errorf("connection %d reached %s, then %s", i, want[i], got)
		}
	}
	st, err := p.b.Stats()
	must(t, err)
	active := uint32(0)
	for _, r := range st.Services[0].Reals {
		active += r.Active
	}
	if active != 31 {
		t.Errorf("%d active connections counted (31)", active)
	}
	if entries := p.a.takeNews().Entries(); len(entries) != 0 {
		t.Errorf("%d entries told again: nothing has changed", len(entries))
	}
}

// A half-open connection is not told of: its client may be made up, as may be
// that of a single datagram. What the client has answered is told of at once.
func TestHalfOpenConnectionsAreNotTold(t *testing.T) {
	dns := netip.AddrPortFrom(web.Addr(), 53)
	udp := lb.Service{Name: "udp", Scheduler: lb.RR, Reals: webService(2).Reals,
		Listeners: []lb.Listener{{Addr: dns.Addr(), Proto: lb.UDP, First: 53, Last: 53}}}
	p := newPair(t, lb.State{Services: []lb.Service{webService(2), udp}})
	datagram := lb.Packet{Proto: lb.UDP, Src: at(2), Dst: dns}
	p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: "S"})
	p.a.Send(datagram)
	if entries := p.sync(t); len(entries) != 0 {
		t.Errorf("told of %+v", entries)
	}
	p.a.Sweep()
	if entries := p.sync(t); len(entries) != 0 {
		t.Errorf("told of %+v after a sweep", entries)
	}
	if entries := p.walk(t); len(entries) != 0 {
		t.Errorf("a peer that joins is told of %+v", entries)
	}
	p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: "A"})
	p.a.Send(datagram)
	entries := p.sync(t)
	if len(entries) != 2 || entries[0].IsProven == entries[1].IsProven {
		t.Errorf("told of %+v (a connection, not proven, and a flow of two datagrams)", entries)
	}
	if entries := p.walk(t); len(entries) != 2 {
		t.Errorf("a peer that joins is told of %+v", entries)
	}
	p.a.Sweep()
	if entries := p.sync(t); len(entries) != 0 {
		t.Errorf("told again of %+v", entries)
	}
}

// The end of a connection is news whatever was known of it: peers would keep it
// for as long as an established one lives.
func TestEndsAreTold(t *testing.T) {
	for _, test := range []struct {
		name string
		sent []string // behind SYN and ACK
		want connsync.State
	}{
		{"FIN of a silent one", []string{"FA"}, connsync.StateFinWait},
		{"FIN", []string{"PA", "FA"}, connsync.StateFinWait},
		{"RST of a silent one", []string{"R"}, connsync.StateClose},
		{"RST", []string{"PA", "R"}, connsync.StateClose},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t, lb.State{Services: []lb.Service{webService(2)}})
			send := func(flags string) { p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: flags}) }
			send("S")
			send("A")
			p.sync(t)
			p.a.news.limits.unproven = 0 // a flood takes it all
			for _, flags := range test.sent {
				send(flags)
			}
			p.a.Sweep()
			if e := p.sync(t); len(e) != 1 || e[0].State != test.want {
				t.Errorf("told of %+v (state %d)", e, test.want)
			}
		})
	}
}

// A packet in the middle of a connection that opens one is told of.
func TestSloppyConnectionsAreTold(t *testing.T) {
	p := newPair(t, lb.State{SloppyTCP: true, Services: []lb.Service{webService(2)}})
	p.a.data(at(1), web)
	if e := p.sync(t); len(e) != 1 || e[0].State != connsync.StateEstablished {
		t.Errorf("told of %+v", e)
	}
}

// A flood of SYNs with their ACKs keeps nothing back that was seen at work, and
// is told of in parts.
func TestFloodIsToldOfInParts(t *testing.T) {
	p := newPair(t, lb.State{Services: []lb.Service{webService(2)}})
	open := func(n int, flags ...string) {
		for _, f := range flags {
			p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(n), Dst: web, Flags: f})
		}
	}
	for i := range 20 {
		open(i, "S", "A")
	}
	open(100, "S", "A", "PA")
	p.a.news.limits.unproven = 5
	if e := p.sync(t); len(e) != 6 {
		t.Errorf("told of %d entries (5 of the flood, and one that was seen at work)", len(e))
	}
	for part := range 3 {
		p.a.Sweep() // the notes are gone
		if e := p.sync(t); len(e) != 5 {
			t.Errorf("part %d of what is left: %d entries (5)", part, len(e))
		}
	}
}

// However many connections an adopted table has, and however many have changed
// at once, they are told of in parts: all of them, each once.
func TestAdoptedTableIsToldOfInParts(t *testing.T) {
	const count, part = 1000, 64 // a part may be a word of sets too long
	for name, isNoted := range map[string]bool{"noted": true, "found by the sweeper": false} {
		t.Run(name, func(t *testing.T) {
			p := newPairOf(t, lb.State{Services: []lb.Service{webService(2)}}, 4*count)
			for i := range count {
				p.a.open(at(i), web)
			}
			p.a.news.limits.noted, p.a.news.limits.found = part, part
			if !isNoted {
				clear(p.a.dp.FlowNews)
				p.a.Sweep()
			}
			times := map[netip.AddrPort]int{}
			for range count {
				e := p.sync(t)
				if most := part + 64*bpf.Ways; len(e) > most {
					t.Errorf("%d entries at a time, want %d at most", len(e), most)
				}
				for _, entry := range e {
					times[entry.Client]++
				}
				if len(e) == 0 {
					break
				}
			}
			for i := range count {
				if n := times[at(i)]; n != 1 {
					t.Errorf("%s was told of %d times", at(i), n)
				}
			}
		})
	}
}

// States and ends travel, and timeouts begin where they stand.
func TestSyncedStatesAndTimes(t *testing.T) {
	p := newPair(t, lb.State{Services: []lb.Service{webService(2)}})
	p.a.open(at(1), web)
	p.sync(t)
	p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: "FA"})
	e := p.sync(t)
	if len(e) != 1 || e[0].State != connsync.StateFinWait || e[0].Timeout != 120*time.Second || e[0].Flags&connsync.FlagInactive == 0 {
		t.Fatalf("after the FIN: %+v", e)
	}
	conns, err := p.b.Connections(0)
	must(t, err)
	if len(conns) != 1 || conns[0].State != "FIN_WAIT" {
		t.Errorf("the peer has %+v", conns)
	}
	// A walk later tells how long it has been idle.
	p.a.dp.Settings.Clock += 50
	walked := p.walk(t)
	if len(walked) != 1 || walked[0].Idle < 45*time.Second || walked[0].Idle > 80*time.Second {
		t.Errorf("walked %+v (idle for 50 ticks)", walked)
	}
}

// What lives long is told again before the peer's copy ends, and not before a
// third of its life.
func TestLongLivedConnectionsAreToldAgain(t *testing.T) {
	p := newPair(t, lb.State{Services: []lb.Service{webService(2)}})
	p.a.open(at(1), web)
	p.sync(t)
	life := int(p.a.dp.Settings.Timeout[bpf.StateEstablished])
	for _, test := range []struct{ after, want int }{{life/3 - 10, 0}, {20, 1}, {20, 0}} {
		p.a.dp.Settings.Clock += uint64(test.after)
		p.a.data(at(1), web)
		p.a.Sweep()
		if e := p.sync(t); len(e) != test.want {
			t.Errorf("%d ticks later told of %d entries (%d)", test.after, len(e), test.want)
		}
	}
}

// A client's template travels with its rank and its end, and new connections of
// the client follow it.
func TestSyncedTemplatesKeepClients(t *testing.T) {
	s := webService(3)
	s.Persistence.Timeout = 300 * time.Second
	p := newPair(t, lb.State{Services: []lb.Service{s}})
	want := map[int]netip.Addr{}
	for i := range 9 {
		want[i] = p.a.open(at(i), web)
	}
	for _, e := range p.sync(t) {
		if e.IsTemplate() && (e.State != connsync.StateAssured || e.Timeout != 300*time.Second || e.Client.Port() != 0) {
			t.Errorf("template %+v", e)
		}
	}
	p.b.open(at(700), web)
	for i := range 9 {
		next := netip.AddrPortFrom(at(i).Addr(), 40000)
		if got := p.b.open(next, web); got != want[i] {
			t.Errorf("client %d was kept by %s, and another connection reached %s", i, want[i], got)
		}
	}
}

// What follows news at once is told in the same tick, or in the next one with an
// older packet: it counts all the same. Word of a living connection does not undo
// what was seen here a tick later.
func TestNewsAreOrderedWithinATick(t *testing.T) {
	s := webService(2)
	first, second := s.Reals[0].Addr, s.Reals[1].Addr
	word := func(state connsync.State, real netip.Addr, isProven bool, idle time.Duration) connsync.Entry {
		e := connsync.Entry{IsProven: isProven, Idle: idle, Record: connsync.Record{
			Protocol: connsync.ProtocolTCP, State: state, Client: at(1), Virtual: web, Real: netip.AddrPortFrom(real, 80),
		}}
		if state != connsync.StateEstablished {
			e.Flags |= connsync.FlagInactive
		}
		return e
	}
	for name, test := range map[string]struct {
		entries []connsync.Entry
		want    connsync.State
		real    netip.Addr
	}{
		"proof": {[]connsync.Entry{
			word(connsync.StateEstablished, first, false, 0), word(connsync.StateEstablished, first, true, time.Second),
		}, connsync.StateEstablished, first},
		"end": {[]connsync.Entry{
			word(connsync.StateEstablished, first, true, 0), word(connsync.StateFinWait, first, true, time.Second),
		}, connsync.StateFinWait, first},
		"the next connection": {[]connsync.Entry{
			word(connsync.StateClose, first, true, 0), word(connsync.StateEstablished, second, true, time.Second),
		}, connsync.StateEstablished, second},
		"older word of a living one": {[]connsync.Entry{
			word(connsync.StateFinWait, first, true, 0), word(connsync.StateEstablished, first, true, time.Second),
		}, connsync.StateFinWait, first},
		"older word of another real": {[]connsync.Entry{
			word(connsync.StateEstablished, first, true, 0), word(connsync.StateEstablished, second, true, time.Second),
		}, connsync.StateEstablished, first},
		"an end of long ago": {[]connsync.Entry{
			word(connsync.StateEstablished, first, true, 0), word(connsync.StateFinWait, first, true, 5*time.Second),
		}, connsync.StateEstablished, first},
	} {
		t.Run(name, func(t *testing.T) {
			h := newStill(t, 256, 256)
			h.apply(lb.State{Services: []lb.Service{s}})
			h.pass(100)
			for _, e := range test.entries {
				_, err := h.Absorb(connsync.BatchOf(e))
				must(t, err)
			}
			var all []connsync.Entry
			must(t, h.Walk(t.Context(), func(b *connsync.Batch) error {
				all = append(all, b.Entries()...)
				return nil
			}))
			if len(all) != 1 || all[0].State != test.want || all[0].Real.Addr() != test.real || !all[0].IsProven {
				t.Errorf("%+v, want state %d with %s", all, test.want, test.real)
			}
		})
	}
}

// Entries of a real that is not here yet wait for the edit that brings it.
func TestUnknownRealsWait(t *testing.T) {
	s := webService(3)
	p := newPair(t, lb.State{Services: []lb.Service{webService(2)}})
	p.a.apply(lb.State{Services: []lb.Service{s}})
	want := map[int]netip.Addr{}
	for i := range 6 {
		want[i] = p.a.open(at(i), web)
	}
	p.sync(t)
	if n := len(p.b.pen.entries); n != 2 {
		t.Fatalf("%d entries wait (2)", n)
	}
	p.b.apply(lb.State{Services: []lb.Service{s}})
	p.sync(t)
	for i := range 6 {
		if got := p.b.data(at(i), web); got != want[i] {
			t.Errorf("connection %d reached %s, then %s", i, want[i], got)
		}
	}
}

// Whatever a peer tells, no proven connection of this director loses its place
// or its real to older news.
func TestPeersCannotHarmProvenConnections(t *testing.T) {
	s := webService(4)
	h := newStill(t, 256, 256)
	h.apply(lb.State{Services: []lb.Service{s}})
	want := map[int]netip.Addr{}
	for i := range 256 {
		want[i] = h.open(at(i), web)
	}
	other := func(real netip.Addr) netip.Addr {
		for _, r := range s.Reals {
			if r.Addr != real {
				return r.Addr
			}
		}
		return real
	}
	var entries []connsync.Entry
	for i := range 4000 {
		e := connsync.Entry{IsProven: true, Record: connsync.Record{
			Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Timeout: 900 * time.Second,
			Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 999), Virtual: web,
			Real: netip.AddrPortFrom(s.Reals[i%4].Addr, 80),
		}}
		if i < 256 { // of our own connections, with another real, a second old
			e.Client, e.Real, e.Idle = at(i), netip.AddrPortFrom(other(want[i]), 80), 5*time.Second
		}
		entries = append(entries, e)
	}
	_, err := h.Absorb(connsync.BatchOf(entries...))
	must(t, err)
	for i := range 256 {
		if got := h.data(at(i), web); got != want[i] {
			t.Errorf("connection %d reached %s, then %s", i, want[i], got)
		}
	}
}

// A peer's later word on a connection that began anew with another real holds.
func TestNewerWordOfAnotherRealHolds(t *testing.T) {
	s := webService(2)
	p := newPair(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	first := p.a.open(at(1), web)
	p.sync(t)
	p.a.Send(lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: "R"})
	p.sync(t)
	second := p.a.open(at(1), web)
	if second == first {
		t.Fatalf("both connections reached %s", first)
	}
	p.sync(t)
	if got := p.b.data(at(1), web); got != second {
		t.Errorf("reached %s on the peer (%s)", got, second)
	}
	st, err := p.b.Stats()
	must(t, err)
	if r := st.Services[0].Reals; r[0].Active+r[1].Active != 1 || r[0].Inactive+r[1].Inactive != 0 {
		t.Errorf("counts %+v (one active connection)", r)
	}
}

// Services of marks, ranges and every port are found again.
func TestSyncedServicesOfEveryKind(t *testing.T) {
	vip := web.Addr()
	reals := webService(3).Reals
	services := []lb.Service{
		{Name: "mark", Mark: 10, Scheduler: lb.RR, Reals: reals, Persistence: lb.Persistence{Timeout: time.Minute}, Listeners: []lb.Listener{
			{Addr: vip, Proto: lb.TCP, First: 8000, Last: 8000}, {Addr: vip, Proto: lb.TCP, First: 9000, Last: 9000},
		}},
		{Name: "range", Scheduler: lb.RR, Reals: reals, Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 7000, Last: 7100}}, Mark: 11},
		{Name: "every", Scheduler: lb.RR, Reals: reals, Persistence: lb.Persistence{Timeout: time.Minute}, Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP}}},
		{Name: "udp", Scheduler: lb.RR, Reals: reals, Listeners: []lb.Listener{{Addr: vip, Proto: lb.UDP, First: 53, Last: 53}}},
	}
	p := newPair(t, lb.State{Services: services})
	want := map[string]netip.Addr{}
	ports := []uint16{8000, 9000, 7050, 6000}
	for i := range 12 {
		for _, port := range ports {
			want[fmt.Sprint(i, port)] = p.a.open(at(100*int(port/1000)+i), netip.AddrPortFrom(vip, port))
		}
		for range 2 {
			want[fmt.Sprint(i, "udp")] = p.a.Send(lb.Packet{Proto: lb.UDP, Src: at(i), Dst: netip.AddrPortFrom(vip, 53)}).Real
		}
	}
	p.sync(t)
	p.b.open(at(9999), netip.AddrPortFrom(vip, 7050))
	for i := range 12 {
		for _, port := range ports {
			if got := p.b.data(at(100*int(port/1000)+i), netip.AddrPortFrom(vip, port)); got != want[fmt.Sprint(i, port)] {
				t.Errorf("connection %d of port %d reached %s (%s)", i, port, got, want[fmt.Sprint(i, port)])
			}
		}
		if got := p.b.Send(lb.Packet{Proto: lb.UDP, Src: at(i), Dst: netip.AddrPortFrom(vip, 53)}).Real; got != want[fmt.Sprint(i, "udp")] {
			t.Errorf("UDP of client %d reached %s (%s)", i, got, want[fmt.Sprint(i, "udp")])
		}
	}
}

// The list of connections marks what a peer told of, and nothing else: not what
// was opened here, nor what has the place after it.
func TestListMarksWhatPeersToldOf(t *testing.T) {
	s := webService(2)
	s.Persistence.Timeout = time.Minute
	p := newPair(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	p.a.open(at(1), web)
	p.sync(t)
	p.b.open(at(2), web)
	marked := func() map[string]bool {
		t.Helper()
		conns, err := p.b.Connections(0)
		must(t, err)
		of := map[string]bool{}
		for _, c := range conns {
			of[fmt.Sprint(c.Client.Addr(), c.Template)] = c.Synced
		}
		return of
	}
	want := map[string]bool{
		fmt.Sprint(at(1).Addr(), false): true, fmt.Sprint(at(1).Addr(), true): true,
		fmt.Sprint(at(2).Addr(), false): false, fmt.Sprint(at(2).Addr(), true): false,
	}
	if diff := cmp.Diff(want, marked()); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
	p.b.data(at(1), web)
	if !marked()[fmt.Sprint(at(1).Addr(), false)] {
		t.Error("the mark is lost with the first packet")
	}
	for i, k := 0, uint64(bpf.FlowKeyOf(at(1).Addr(), at(1).Port(), 1)); i < 1<<4; i++ {
		v := uint64(i) << 56
		if originOf(k, v, false) == 0 || originOf(k, v, false) == originOf(k, v, true) {
			t.Errorf("nonce %d: no mark", i)
		}
	}
}
