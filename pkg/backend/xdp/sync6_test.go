package xdp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// pair6 is a pair of directors that serve IPv6 too, with the same services.
type pair6 struct {
	pair
	x, y *six // a and b
}

func newPair6(t *testing.T, s lb.State) *pair6 {
	t.Helper()
	o := Options{Flows: 1024, Templates: 1024, StillClock: true, IPv6: true}
	six := func(h *harness) *six {
		x := &six{h, h.dp.Program("lvx0")}
		x.hosts(9)
		x.apply(s)
		return x
	}
	p := &pair6{x: six(openHarness(t, o)), y: six(openHarness(another{t}, o))}
	p.a, p.b = p.x.harness, p.y.harness
	p.a.tellOnRequest()
	return p
}

func at6(n int) netip.AddrPort {
	a := netip.MustParseAddr("2001:db8:1::").As16()
	a[14], a[15] = byte(n>>8), byte(n)
	return netip.AddrPortFrom(netip.AddrFrom16(a), uint16(1000+n))
}

// to is the real that a packet reaches; the zero address if none.
func (x *six) to(p lb.Packet) netip.Addr {
	x.t.Helper()
	_, out, action := x.send(frame6(p, 0, 0, nil))
	if action != tx {
		return netip.Addr{}
	}
	for n := range 9 {
		if a := realN6(n + 1); mac6(a) == [6]byte(out[:6]) {
			return a
		}
	}
	x.t.Fatalf("to %x", out[:6])
	return netip.Addr{}
}

func (x *six) open6(src, dst netip.AddrPort) (real netip.Addr) {
	x.t.Helper()
	for _, flags := range []string{"S", "A", "PA"} {
		real = x.to(lb.Packet{Proto: lb.TCP, Src: src, Dst: dst, Flags: flags})
	}
	return real
}

func (x *six) data6(src, dst netip.AddrPort) netip.Addr {
	x.t.Helper()
	return x.to(lb.Packet{Proto: lb.TCP, Src: src, Dst: dst, Flags: "PA"})
}

// Connections and UDP flows of IPv6 go on through the other director, beside
// those of IPv4, and are told of as they change.
func TestSyncedConnectionsOfIPv6GoOnElsewhere(t *testing.T) {
	p := newPair6(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService6(3), webService(3)}})
	dns := lb.Packet{Proto: lb.UDP, Dst: web6}
	want, want4, wantUDP := map[int]netip.Addr{}, map[int]netip.Addr{}, map[int]netip.Addr{}
	for i := range 20 {
		want[i], want4[i] = p.x.open6(at6(i), web6), p.a.open(at(i), web)
		for range 2 {
			dns.Src = at6(100 + i)
			wantUDP[i] = p.x.to(dns)
		}
	}
	p.y.open6(at6(500), web6) // the other director's counter stands elsewhere
	if entries := p.sync(t); len(entries) != 60 {
		t.Errorf("%d entries told (60)", len(entries))
	}
	if entries := p.walk(t); len(entries) != 60 {
		t.Errorf("%d entries walked (60)", len(entries))
	}
	conns, err := p.b.Connections(0)
	must(t, err)
	synced := 0
	for _, c := range conns {
		if c.Synced {
			synced++
		}
	}
	if synced != 60 || len(conns) != 61 {
		t.Errorf("%d of %d connections are listed as told of (60 of 61)", synced, len(conns))
	}
	for i := range 20 {
		if got := p.y.data6(at6(i), web6); got != want[i] {
			t.Errorf("connection %d reached %s, then %s", i, want[i], got)
		}
		if got := p.b.data(at(i), web); got != want4[i] {
			t.Errorf("connection %d of IPv4 reached %s, then %s", i, want4[i], got)
		}
		dns.Src = at6(100 + i)
		if got := p.y.to(dns); got != wantUDP[i] {
			t.Errorf("UDP flow %d reached %s, then %s", i, wantUDP[i], got)
		}
	}
	if entries := p.a.takeNews().Entries(); len(entries) != 0 {
		t.Errorf("%d entries told again: nothing has changed", len(entries))
	}
	p.x.to(lb.Packet{Proto: lb.TCP, Src: at6(1), Dst: web6, Flags: "FA"})
	e := p.sync(t)
	if len(e) != 1 || e[0].State != connsync.StateFinWait || e[0].Client != at6(1) || e[0].Virtual != web6 || e[0].Real != netip.AddrPortFrom(want[1], 80) {
		t.Errorf("after a FIN: %+v", e)
	}
}

// What a note missed the sweeper finds, of IPv6 too.
func TestSweeperFindsNewsOfIPv6(t *testing.T) {
	p := newPair6(t, lb.State{Services: []lb.Service{webService6(2)}})
	for i := range 20 {
		p.x.open6(at6(i), web6)
	}
	clear(p.a.dp.FlowNews6)
	if e := p.sync(t); len(e) != 0 {
		t.Errorf("%d entries told without a note", len(e))
	}
	p.a.Sweep()
	if e := p.sync(t); len(e) != 20 {
		t.Errorf("%d entries told behind a sweep (20)", len(e))
	}
}

// A client's template of IPv6 travels: of an address, of a network, and of a mark.
func TestSyncedTemplatesOfIPv6KeepClients(t *testing.T) {
	one := webService6(3)
	one.Mark = 11 // it has two listeners
	one.Persistence = lb.Persistence{Timeout: 300 * time.Second}
	network := webService6(3)
	network.Name, network.Listeners = "network", []lb.Listener{{Addr: vip6, Proto: lb.TCP, First: 81, Last: 81}}
	network.Persistence = lb.Persistence{Timeout: 300 * time.Second, Prefix: 120}
	mark := webService6(3)
	mark.Name, mark.Mark, mark.Listeners = "mark", 10, []lb.Listener{{Addr: vip6, Proto: lb.TCP, First: 82, Last: 82}, {Addr: vip6, Proto: lb.TCP, First: 83, Last: 83}}
	mark.Persistence = lb.Persistence{Timeout: 300 * time.Second}
	mark4 := webService(3)
	mark4.Name, mark4.Mark = "mark4", 10
	p := newPair6(t, lb.State{Services: []lb.Service{one, network, mark, mark4}})
	want := map[string]netip.Addr{}
	client := func(i int) netip.AddrPort { return at6(i << 8) }
	for i := range 6 {
		for port := uint16(80); port < 83; port++ {
			want[fmt.Sprint(i, port)] = p.x.open6(client(i), netip.AddrPortFrom(vip6, port))
		}
	}
	templates := 0
	for _, e := range p.sync(t) {
		if e.IsTemplate() {
			templates++
			if e.State != connsync.StateAssured || e.Client.Port() != 0 || !e.Virtual.Addr().Is6() {
				t.Errorf("template %+v", e)
			}
			if e.Mark == 10 && e.Virtual != netip.MustParseAddrPort("[0:a::]:0") {
				t.Errorf("template of a mark: %+v", e)
			}
		}
	}
	if templates != 18 {
		t.Errorf("%d templates (18)", templates)
	}
	p.y.open6(at6(77), web6)
	for i := range 6 {
		for port := uint16(80); port < 83; port++ {
			next, dst := client(i), netip.AddrPortFrom(vip6, port)
			switch port {
			case 81: // another host of the network
				next = at6(i<<8 + 9)
			case 82: // another port of the group
				dst = netip.AddrPortFrom(vip6, 83)
			}
			next = netip.AddrPortFrom(next.Addr(), 40000)
			if got := p.y.open6(next, dst); got != want[fmt.Sprint(i, port)] {
				t.Errorf("client %d of port %d was kept by %s, and another connection reached %s", i, port, want[fmt.Sprint(i, port)], got)
			}
		}
	}
}

// Clients of one name are told apart, and neither flow is proven by a peer's word:
// the short way would take one for the other.
func TestPeersProveNoTwins(t *testing.T) {
	p := newPair6(t, lb.State{Services: []lb.Service{webService6(3)}})
	p.b.dp.Settings.NameKey = [5]uint64{} // one name for all
	for i := range 2 {
		p.x.open6(netip.AddrPortFrom(at6(i).Addr(), 7777), web6)
	}
	entries := p.sync(t)
	if len(entries) != 2 || !entries[0].IsProven || !entries[1].IsProven || entries[0].Real == entries[1].Real {
		t.Fatalf("told of %+v (two proven flows of two reals)", entries)
	}
	for range 2 { // again: what is known is changed
		for i := range entries {
			entries[i].State = connsync.StateEstablished
		}
		_, err := p.b.Absorb(connsync.BatchOf(entries...))
		must(t, err)
		flows := 0
		p.b.eachFlow(func(e entry, v bpf.FlowValue) bool {
			flows++
			if v.IsProven() {
				t.Errorf("the flow of %s is proven beside its twin", e.client())
			}
			return true
		})
		if flows != 2 {
			t.Errorf("%d flows (2)", flows)
		}
	}
	for _, e := range entries {
		if got := p.y.data6(e.Client, web6); got != e.Real.Addr() {
			t.Errorf("%s reached %s, want %s", e.Client, got, e.Real.Addr())
		}
	}
}

// Of what a director tells of a family that its peer does not serve, the peer
// takes nothing, and all of the other family.
func TestPeerWithoutIPv6(t *testing.T) {
	p := newPair6(t, lb.State{Services: []lb.Service{webService6(2), webService(2)}})
	old := newStill(another{another{t}}, 1024, 1024)
	old.apply(lb.State{Services: []lb.Service{webService(2)}})
	p.x.open6(at6(1), web6)
	want := p.a.open(at(1), web)
	if rejected, err := old.Absorb(p.a.takeNews()); err != nil || rejected != 0 || len(old.pen.entries) != 1 {
		t.Errorf("%d rejected, %d wait (0, 1): %v", rejected, len(old.pen.entries), err)
	}
	if got := old.data(at(1), web); got != want {
		t.Errorf("reached %s, then %s", want, got)
	}
}
