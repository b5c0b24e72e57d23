package xdp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

func statelessService(reals int, scheduler lb.Scheduler) lb.Service {
	s := webService(reals)
	s.Scheduler, s.Stateless = scheduler, true
	s.Flags = map[lb.Scheduler]lb.SchedFlags{lb.MH: lb.MHPort, lb.SH: lb.SHPort}[scheduler]
	return s
}

// What a row becomes by changes of its real and by the sweeper's passes.
func TestRows(t *testing.T) {
	settled := bpf.RowOf(1)
	changed := settled.WithReal(2, 5, 1000)
	if changed.Real() != 2 || changed.Settled() != 1 || changed.Generation() != 5 || changed.Since() != 1000 || changed.State() != bpf.RowChanged {
		t.Fatalf("a settled row that gets another real is %x", changed)
	}
	if again := changed.WithReal(3, 9, 2000); again.Settled() != 1 || again.Generation() != 5 || again.Since() != 1000 || again.Real() != 3 {
		t.Errorf("two changes in a row: %x", again)
	}
	provable := settled.WithState(bpf.RowProvable)
	for name, c := range map[string]struct {
		row, want           bpf.RowValue
		isOver, isElsewhere bool
	}{
		"too early":                {changed, changed, false, false},
		"the time is over":         {changed, bpf.RowOf(2).WithState(bpf.RowProvable), true, true},
		"the real has come back":   {changed.WithReal(1, 0, 9), changed.WithReal(1, 0, 9).WithState(bpf.RowProvable), false, true},
		"a clean pass":             {provable, provable.WithState(bpf.RowProven), true, false},
		"another one":              {provable.WithState(bpf.RowProven), settled, true, false},
		"a connection elsewhere":   {provable, provable, true, true},
		"one in the second pass":   {provable.WithState(bpf.RowProven), provable, true, true},
		"no real":                  {bpf.RowOf(bpf.RowNone).WithState(bpf.RowProven), bpf.RowOf(bpf.RowNone).WithState(bpf.RowProvable), true, false},
		"back, and two passes":     {changed.WithReal(1, 0, 9).WithState(bpf.RowProven), settled, false, false},
		"back, and away meanwhile": {changed.WithReal(1, 0, 9).WithState(bpf.RowProven).WithReal(4, 0, 9), changed.WithReal(4, 0, 9), false, false},
	} {
		if got := nearerToSettled(c.row, c.isOver, c.isElsewhere); got != c.want {
			t.Errorf("%s: %x, want %x", name, uint64(got), uint64(c.want))
		}
	}
}

// residents are clients of a stateless service, with the real that each reached
// when it was opened.
type residents struct {
	*harness
	at    []netip.Addr // invalid: the connection is gone
	moved int
}

func (c *residents) packet(n int, flags string) lb.Packet {
	src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16 + byte(n>>16), byte(n >> 8), byte(n)}), uint16(1024+n%60000))
	return lb.Packet{Proto: lb.TCP, Src: src, Dst: web, Flags: flags}
}

func (c *residents) open(n int) {
	c.at[n] = c.Send(c.packet(n, "S")).Real
	if !c.at[n].IsValid() {
		c.t.Fatalf("connection %d reaches nobody", n)
	}
	c.talk(n, "A")
}

// talk sends a packet of an open connection, which must be where it was.
func (c *residents) talk(n int, flags string) {
	if real := c.Send(c.packet(n, flags)).Real; real != c.at[n] {
		if c.moved++; c.moved < 10 {
			c.t.Errorf("connection %d was at %s, is at %s", n, c.at[n], real)
		}
	}
}

// end forgets the connections of a real that is removed.
func (c *residents) end(real netip.Addr) (n int) {
	for i, at := range c.at {
		if at == real {
			c.at[i] = netip.Addr{}
			n++
		}
	}
	return n
}

func (c *residents) talkAll(part, of int) {
	for n := part; n < len(c.at); n += of {
		if c.at[n].IsValid() {
			c.talk(n, "A")
		}
	}
}

// Established connections of a stateless service stay where they are while
// reals are added, removed and drained, two changes within one timeout too:
// only those of removed reals end. LVX_LOAD=1 is 50,000 of them.
func TestStatelessUnderChange(t *testing.T) {
	for _, scheduler := range []lb.Scheduler{lb.MH, lb.SH} {
		t.Run(string(scheduler), func(t *testing.T) {
			size := 1500
			if os.Getenv("LVX_LOAD") != "" {
				size = 50000
			}
			s := lb.State{ExpireNodestConn: true, Services: []lb.Service{statelessService(8, scheduler)}}
			h := newStill(t, 2*size, 1024)
			h.apply(s)
			c := &residents{harness: h, at: make([]netip.Addr, size)}
			for n := range size {
				c.open(n)
			}
			if n := h.connections(); n != 0 {
				t.Fatalf("%d connections are stored while every row is settled", n)
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			ended, began := 0, h.now()
			reals := &s.Services[0].Reals
			for change := range 20 {
				switch change % 4 {
				case 0: // a new one
					*reals = append(slices.Clone(*reals), lb.Real{Addr: realN(20 + change), Weight: 1})
				case 1, 3: // one is drained
					*reals = slices.Clone(*reals)
					(*reals)[change%len(*reals)].Weight = 0
				case 2: // the one that was drained is gone
					ended += c.end((*reals)[(change-1)%len(*reals)].Addr)
					*reals = slices.Delete(slices.Clone(*reals), (change-1)%len(*reals), (change-1)%len(*reals)+1)
				}
				h.apply(s)
				for range size / 100 { // new ones in place of those that have ended
					if n := rnd.IntN(size); !c.at[n].IsValid() {
						c.open(n)
					}
				}
				if change%6 == 5 { // time for rows to settle; before, several changes within one timeout
					c.talkAll(0, 1)
					h.pass(860)
					c.talkAll(0, 1)
					h.pass(60)
					continue
				}
				c.talkAll(change%3, 3)
				h.pass(50)
			}
			if spent := h.now() - began; spent < 3600-20 || spent > 3600+20 {
				t.Errorf("the changes took %d ticks, want an hour", spent)
			}
			c.talkAll(0, 1)
			if c.moved > 0 || ended == 0 {
				t.Errorf("%d of %d connections have moved; %d ended with their reals", c.moved, size, ended)
			}
			// They end, all rows settle, and nothing is stored any more.
			h.pass(1000)
			for i := range h.services["web"].rowsIn() {
				if row := bpf.RowValue(load64(h.row(h.services["web"], i))); row.State() != bpf.RowSettled {
					t.Fatalf("row %d is not settled: %x", i, uint64(row))
				}
			}
			if c.at[0].IsValid() || h.Send(c.packet(0, "S")).Real.IsValid() {
				c.open(0)
			}
			if n := h.connections(); n != 0 {
				t.Errorf("%d connections are stored in the end", n)
			}
		})
	}
}

// A row that is not settled: what begins a connection goes to the new real, all
// else to the one that had the row; when that is removed, its connections end.
func TestUnsettledRow(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{statelessService(1, lb.MH)}}
	h := newStill(t, 4096, 1024)
	h.apply(s)
	data := frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "A"})
	udp := frame(lb.Packet{Proto: lb.UDP, Src: client, Dst: web})
	wantAt := func(what string, f []byte, n int) {
		t.Helper()
		if at := macOwner(h.want(f, "forwarded", tx)); at != realN(n) {
			t.Errorf("%s: goes to %s, want %s", what, at, realN(n))
		}
	}
	wantAt("settled", data, 1)
	s.Services[0].Reals = []lb.Real{{Addr: realN(1)}, {Addr: realN(2), Weight: 1}}
	h.apply(s)
	wantAt("data without a flow", data, 1)
	wantAt("a datagram without a flow", udp, 1)
	wantAt("a SYN of another client", fresh(1), 2)
	icmp := icmpErrorOf(3, 4, endpoints{lb.TCP, netip.AddrPortFrom(client.Addr(), 7777), web}, 0)
	if at := macOwner(h.want(icmp, "icmp_forwarded", tx)); at != realN(1) {
		t.Errorf("an ICMP error goes to %s", at)
	}
	if n := h.connections(); n != 3 {
		t.Errorf("%d connections are stored, want 3", n)
	}
	s.Services[0].Reals = s.Services[0].Reals[1:]
	h.apply(s)
	late := frame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 41000), Dst: web, Flags: "A"})
	h.want(late, "real_gone", pass)
	wantAt("a datagram of a removed real", udp, 2)
	// It returns: what is not stored is its own again.
	s.Services[0].Reals = []lb.Real{{Addr: realN(2), Weight: 1}, {Addr: realN(1)}}
	h.apply(s)
	wantAt("data of a real that has returned", late, 1)
	s.Services[0].Reals = s.Services[0].Reals[:1]
	h.apply(s)
	h.pass(905)
	wantAt("data of nobody knows whom, after the timeout", late, 2)
}

// A service that has gone keeps no real for the rows that it had, settled or not: three
// passes later it is forgotten, and its slots are free.
func TestRowsOfARemovedServiceKeepNoReal(t *testing.T) {
	s := statelessService(1, lb.MH)
	h := newStill(t, 4096, 1024)
	h.apply(lb.State{Services: []lb.Service{s}})
	h.want(fresh(1), "forwarded", tx)
	s.Reals = []lb.Real{{Addr: realN(1)}, {Addr: realN(2), Weight: 1}} // every row changes
	h.apply(lb.State{Services: []lb.Service{s}})
	h.apply(lb.State{})
	for range idlePasses {
		if h.byIndex[0] == nil {
			t.Error("the service is forgotten too early")
		}
		h.Sweep()
	}
	if h.byIndex[0] != nil {
		t.Errorf("the service is kept: %+v", h.byIndex[0].reals)
	}
}

// A successor goes on with the rows: what is not settled stays so.
func TestRowsOutliveTheDaemon(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{statelessService(3, lb.MH)}}
	h := newStill(t, 4096, 1024)
	h.apply(s)
	c := &residents{harness: h, at: make([]netip.Addr, 300)}
	for n := range c.at {
		c.open(n)
	}
	wantUnsettled := func(most int) { // a third of the rows change, and some for the sake of balance
		t.Helper()
		st, err := h.Stats()
		if err != nil {
			t.Fatal(err)
		}
		all, n := st.Services[0].Rows, st.Services[0].UnsettledRows
		if all != sched.MHTableSize || n > most || most > 0 && n < all/4 {
			t.Errorf("%d of %d rows are not settled", n, all)
		}
	}
	wantUnsettled(0)
	s.Services[0].Reals[1].Weight = 0
	h.apply(s)
	c.talkAll(0, 2)
	wantUnsettled(2000)
	h.succeed()
	c.talkAll(0, 1)
	h.apply(s)
	wantUnsettled(2000)
	c.talkAll(0, 1)
	h.pass(860)
	c.talkAll(0, 1)
	if c.moved > 0 {
		t.Errorf("%d connections have moved", c.moved)
	}
}

// Two directors make the same rows from the same changes, whatever their slots
// are: where one of them leaves off the other goes on, also with connections that
// neither of them has stored.
func TestDirectorsMakeTheSameRows(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{statelessService(4, lb.MH)}}
	older := lb.State{Services: []lb.Service{{
		Name: "older", Scheduler: lb.RR, Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 81, Last: 81}}, Reals: webService(3).Reals,
	}}}
	p := newPair(t, lb.State{})
	p.b.apply(older) // takes the first slots
	for _, h := range []*harness{p.a, p.b} {
		h.apply(s)
	}
	c := &residents{harness: p.a, at: make([]netip.Addr, 400)}
	for n := range c.at {
		c.open(n)
	}
	reals := &s.Services[0].Reals
	for _, change := range []func(){
		func() { (*reals)[1].Weight = 0 },
		func() { *reals = append(*reals, lb.Real{Addr: realN(9), Weight: 1}) },
		func() { (*reals)[1].Weight = 1 },
		func() { (*reals)[0].Weight = 0 },
	} {
		*reals = slices.Clone(*reals)
		change()
		for _, h := range []*harness{p.a, p.b} {
			h.apply(s)
			h.pass(10)
		}
		c.talkAll(0, 5)
		p.sync(t)
	}
	wantSameRows(t, p)
	c.harness = p.b
	c.talkAll(0, 1)
	if c.moved > 0 {
		t.Errorf("%d connections have moved to another real with the director", c.moved)
	}
}

// wantSameRows compares the reals that rows have and had. A row of which one director
// alone has a connection at another real may be further from being settled there.
func wantSameRows(t *testing.T, p *pair) {
	t.Helper()
	unsettled := 0
	name := func(h *harness, slot uint32) string {
		if slot == bpf.RowNone {
			return "nobody"
		}
		return h.addressOf(slot).String()
	}
	for i := range p.a.services["web"].rowsIn() {
		var says [2]string
		for k, h := range []*harness{p.a, p.b} {
			row := bpf.RowValue(load64(h.row(h.services["web"], i)))
			says[k] = name(h, row.Real())
			if row.State() == bpf.RowChanged {
				says[k] += " was " + name(h, row.Settled())
				unsettled++
			}
		}
		if says[0] != says[1] {
			t.Errorf("row %d: %q and %q", i, says[0], says[1])
			return
		}
	}
	if unsettled == 0 {
		t.Error("every row is settled")
	}
}

// A director that starts while rows are not settled counts them as settled, until
// it is told of a connection that is elsewhere: at once, not a pass later.
func TestToldConnectionsUnsettleRows(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{statelessService(3, lb.MH)}}
	p := newPair(t, lb.State{})
	p.a.apply(s)
	c := &residents{harness: p.a, at: make([]netip.Addr, 200)}
	for n := range c.at {
		c.open(n)
	}
	s.Services[0].Reals = slices.Clone(s.Services[0].Reals)
	s.Services[0].Reals[0].Weight = 0
	p.a.apply(s)
	c.talkAll(0, 1)
	p.b.apply(s)
	if rejected, err := p.b.Absorb(connsync.BatchOf(p.walk(t)...)); err != nil || rejected > 0 {
		t.Fatal(rejected, err)
	}
	c.harness = p.b
	c.talkAll(0, 1)
	if c.moved > 0 {
		t.Errorf("%d connections have moved to another real with the director", c.moved)
	}
}

// A director that starts while rows are not settled is told of them: connections
// that nobody has stored stay where they are, also those of rows that its first
// checks give to the real later.
func TestRowsTravelToADirectorThatJoins(t *testing.T) {
	for name, test := range map[string]struct{ isLate, hasThird bool }{
		"its reals are up":      {},
		"a real comes up later": {isLate: true},
		"a real comes up later, a third director knows less of": {isLate: true, hasThird: true},
	} {
		t.Run(name, func(t *testing.T) {
			isLate := test.isLate
			s := lb.State{ExpireNodestConn: true, Services: []lb.Service{statelessService(3, lb.MH)}}
			p := newPair(t, lb.State{})
			p.a.apply(s)
			c := &residents{harness: p.a, at: make([]netip.Addr, 200)}
			for n := range c.at {
				c.open(n)
			}
			s.Services[0].Reals = slices.Clone(s.Services[0].Reals)
			s.Services[0].Reals[0].Weight = 0
			p.a.apply(s)
			p.a.pass(10)
			if isLate {
				early := s
				early.Services = slices.Clone(s.Services)
				early.Services[0].Reals = slices.Clone(s.Services[0].Reals[:2])
				late := s.Services[0].Reals[2]
				late.Unchecked = true
				early.Services[0].Absent = []lb.Real{late}
				p.b.apply(early)
			} else {
				p.b.apply(s)
			}
			for _, rows := range p.a.ChangedRows() {
				p.b.AbsorbRows(rows)
				if test.hasThird {
					rows.Changed = slices.Clone(rows.Changed[:1])
					p.b.AbsorbRows(rows)
				}
			}
			if isLate {
				p.b.apply(s)
				p.b.Missed() // as behind every plan
			}
			c.harness = p.b
			c.talkAll(0, 1)
			if c.moved > 0 {
				t.Errorf("%d connections have moved to another real with the director", c.moved)
			}
			wantSameRows(t, p)
			if n := len(p.b.toldRows); n != 0 {
				t.Errorf("rows of %d services wait still", n)
			}
			for range 1000 / 10 { // the rows settle here as well
				p.a.pass(10)
				p.b.pass(10)
			}
			for _, h := range []*harness{p.a, p.b} {
				if _, unsettled := h.countRows(h.services["web"]); unsettled != 0 {
					t.Errorf("%d rows are not settled behind the longest timeout", unsettled)
				}
			}
		})
	}
}

// A running service becomes stateless: connections that are stored stay where
// they are, and those of rows that have the same real need no flow any more.
func TestServiceBecomesStateless(t *testing.T) {
	s := lb.State{Services: []lb.Service{statelessService(3, lb.MH)}}
	s.Services[0].Scheduler, s.Services[0].Flags = lb.RR, 0
	h := newStill(t, 4096, 1024)
	h.apply(s)
	c := &residents{harness: h, at: make([]netip.Addr, 300)}
	for n := range c.at {
		c.open(n)
	}
	s.Services[0].Scheduler, s.Services[0].Flags = lb.MH, lb.MHPort
	for range 4 {
		h.apply(s)
		c.talkAll(0, 1)
		h.pass(5)
	}
	if c.moved > 0 {
		t.Errorf("%d connections have moved", c.moved)
	}
}

// A VIP with a stateless service and another one: the other keeps connections.
func TestStatelessBesideOthers(t *testing.T) {
	other := webService(2)
	other.Name, other.Mark = "other", 0
	other.Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 81, Last: 81}}
	h := serving(t, lb.State{Services: []lb.Service{statelessService(2, lb.SH), other}})
	dst := netip.AddrPortFrom(vip, 81)
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: dst, Flags: "A"}), "no_flow", pass)
	to := h.open(client, dst)
	h.open(client, web)
	if n := h.connections(); n != 1 || h.Send(lb.Packet{Proto: lb.TCP, Src: client, Dst: dst, Flags: "A"}).Real != to {
		t.Errorf("%d connections are stored, want the one of the other service", n)
	}
}

// Its real is the one that kernel IPVS chooses by the same scheduler.
func TestStatelessHashesAsEver(t *testing.T) {
	for _, scheduler := range []lb.Scheduler{lb.MH, lb.SH} {
		t.Run(string(scheduler), func(t *testing.T) {
			got := map[bool][]string{}
			h := newHarness(t, 4096, 1024)
			for _, stateless := range []bool{false, true} {
				s := statelessService(5, scheduler)
				s.Stateless = stateless
				h.reset(t)
				h.apply(lb.State{Services: []lb.Service{s}})
				for n := range 200 {
					src := netip.AddrPortFrom(client.Addr(), uint16(2000+7*n))
					got[stateless] = append(got[stateless], fmt.Sprint(h.open(src, web)))
				}
			}
			if !slices.Equal(got[false], got[true]) {
				t.Errorf("the reals are\n%v, want\n%v", got[true], got[false])
			}
		})
	}
}
