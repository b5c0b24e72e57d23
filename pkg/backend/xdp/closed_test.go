package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// What the kernel does with connections that are over or whose real is away,
// found by the judge (testenv/vm/judge).

func (h *harness) tcp(flags string) netip.Addr {
	return h.Send(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: flags}).Real
}

// A closed connection counts while its successor is scheduled (ip_vs_in:
// ip_vs_conn_expire_now leaves its end to a timer): lc takes the other real.
func TestClosedConnectionCounts(t *testing.T) {
	s := webService(2)
	s.Scheduler = lb.LC
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	for i, want := range []netip.Addr{realN(2), realN(1), realN(2), realN(1)} {
		if got := h.tcp("S"); got != want {
			t.Errorf("connection %d: %s, want %s", i, got, want)
		}
		h.tcp("FA") // from SYN_RECV: TIME_WAIT
	}
	st, err := h.Stats()
	must(t, err)
	if r := st.Services[0].Reals; r[0].Inactive != 1 || r[0].Active+r[1].Active+r[1].Inactive != 0 {
		t.Errorf("counts %+v", r)
	}
}

// A connection with a template is never new (is_new_conn_expected): a SYN on a
// closed one goes on with it.
func TestClosedPersistentConnectionGoesOn(t *testing.T) {
	s := webService(3)
	s.Persistence.Timeout = time.Minute
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	to := h.tcp("S")
	h.tcp("FA")
	if got := h.tcp("S"); got != to {
		t.Errorf("reached %s, then %s", to, got)
	}
	st, err := h.Stats()
	must(t, err)
	if n := st.Services[0].Conns; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	conns, err := h.Connections(0)
	must(t, err)
	for _, c := range conns {
		if !c.Template && c.State != "SYN_RECV" {
			t.Errorf("state %s, want SYN_RECV", c.State)
		}
	}
}

// While the packets of a removed real's connections are dropped, a SYN on a
// closed one is new all the same.
func TestClosedConnectionOfAwayReal(t *testing.T) {
	s := webService(2)
	state := lb.State{Services: []lb.Service{s}}
	h := serving(t, state)
	if got := h.tcp("S"); got != realN(2) {
		t.Fatalf("reached %s", got)
	}
	state.Services[0].Reals = s.Reals[:1]
	h.apply(state)
	if got := h.tcp("S"); got.IsValid() {
		t.Errorf("half open: reached %s", got)
	}
	state.Services[0].Reals = s.Reals
	h.apply(state)
	h.tcp("FA")
	state.Services[0].Reals = s.Reals[:1]
	h.apply(state)
	if got := h.tcp("A"); got.IsValid() {
		t.Errorf("an ACK reached %s", got)
	}
	if got := h.tcp("S"); got != realN(1) {
		t.Errorf("a SYN reached %s, want %s", got, realN(1))
	}
}

// With sloppy_tcp any packet opens a connection, also one whose real was
// removed.
func TestSloppyPacketOfRemovedReal(t *testing.T) {
	s := webService(2)
	state := lb.State{ExpireNodestConn: true, SloppyTCP: true, Services: []lb.Service{s}}
	h := serving(t, state)
	if got := h.tcp("A"); got != realN(2) {
		t.Fatalf("reached %s", got)
	}
	state.Services[0].Reals = s.Reals[:1]
	h.apply(state)
	if got := h.tcp("A"); got != realN(1) {
		t.Errorf("reached %s, want %s", got, realN(1))
	}
}

// A client that came while no real could be used has no template any more. An
// older connection of it, established once its real is back, makes one again.
func TestTemplateReturnsWithItsConnection(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.nodest(false)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr -p 300\nipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("before", f.send(6, "172.16.0.5:20001", "10.0.0.100:80", "S"), "rs2")
	f.ipvsadm("ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.12")
	f.expect("meanwhile", f.send(6, "172.16.0.5:20002", "10.0.0.100:80", "S"), "icmp 3/3")
	f.ipvsadm("ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("after", f.send(6, "172.16.0.5:20001", "10.0.0.100:80", "A"), "rs2")
	f.lists("after", `
    TCP 14:59  ESTABLISHED 172.16.0.5:20001   10.0.0.100:80      10.0.0.12:80
    TCP 04:59  ASSURED     172.16.0.5:0       10.0.0.100:80      10.0.0.12:80`)
}

// A quiesced real whose templates are to end (expire_quiescent_template) gives no
// client a template anew, however alive its connections are.
func TestQuiescedRealGivesNoTemplate(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.state.ExpireQuiescentTempl = true
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr -p 300\nipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("before", f.send(6, "172.16.0.5:20001", "10.0.0.100:80", "S"), "rs2")
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 0")
	f.expect("meanwhile", f.send(6, "172.16.0.5:20002", "10.0.0.100:80", "S"), "icmp 3/3")
	f.expect("after", f.send(6, "172.16.0.5:20001", "10.0.0.100:80", "A"), "rs2")
	f.lists("after", `
    TCP 14:59  ESTABLISHED 172.16.0.5:20001   10.0.0.100:80      10.0.0.12:80`)
}

// Nor do packets of a connection end the template of a quiesced real: a client
// who comes when templates are followed again is still bound by it.
func TestPacketsEndNoTemplate(t *testing.T) {
	f := newStill(t, 4096, 1024).replay(t)
	f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr -p 300\nipvsadm -a -t 10.0.0.100:80 -r 10.0.0.12 -g")
	f.expect("before", f.send(6, "172.16.0.5:20001", "10.0.0.100:80", "S"), "rs2")
	f.state.ExpireQuiescentTempl = true
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 0")
	f.expect("meanwhile", f.send(6, "172.16.0.5:20001", "10.0.0.100:80", "A"), "rs2")
	f.state.ExpireQuiescentTempl = false
	f.ipvsadm("ipvsadm -e -t 10.0.0.100:80 -r 10.0.0.12 -g -w 0")
	f.expect("after", f.send(6, "172.16.0.5:20002", "10.0.0.100:80", "S"), "rs2")
}

// A sorry server keeps nobody: a persistent client that spoke to it goes to a
// real as soon as there is one.
func TestSorryServerKeepsNobody(t *testing.T) {
	s := webService(1)
	s.Persistence.Timeout, s.Sorry = time.Minute, realN(5)
	s.Reals[0].Weight = 0
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	for _, flags := range []string{"S", "A"} {
		if got := h.tcp(flags); got != realN(5) {
			t.Fatalf("reached %s", got)
		}
	}
	s = webService(1)
	s.Persistence.Timeout, s.Sorry = time.Minute, realN(5)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	next := netip.AddrPortFrom(client.Addr(), client.Port()+1)
	if got := h.Send(lb.Packet{Proto: lb.TCP, Src: next, Dst: web}).Real; got != realN(1) {
		t.Errorf("the next connection reached %s, want %s", got, realN(1))
	}
}
