package xdp

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Replies of a connection are known as long as it lives: when its listener has
// gone, when its service was gone for a while, and to a successor. Nothing is kept
// after that.
func TestNATRepliesOutliveTheirListener(t *testing.T) {
	h := newNAT(t)
	admin := netip.AddrPortFrom(web.Addr(), 443)
	s := natService()
	s.Listeners = append(slices.Clone(s.Listeners[:1]), lb.Listener{Addr: admin.Addr(), Proto: lb.TCP, First: 443, Last: 443})
	apply := func(services ...lb.Service) {
		t.Helper()
		h.apply(lb.State{ExpireNodestConn: true, Services: services})
	}
	apply(s)
	other := netip.AddrPortFrom(client.Addr(), 1234)
	both := func(flags string) {
		t.Helper()
		h.wantIn(natPacket{proto: lb.TCP, src: other, dst: admin, flags: flags}, natReal)
		h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: other, flags: "A", payload: 3}, admin)
	}
	both("S")
	both("A")
	less := s
	less.Listeners = s.Listeners[:1]
	apply(less)
	both("A")
	for range idlePasses + 1 {
		h.Sweep()
	}
	apply(less)
	both("A")
	h.succeed()
	h.net.asking = false
	apply(less)
	both("A")
	apply()
	apply(less)
	both("A")
	h.dp.Settings.Clock += 1000
	for range idlePasses {
		h.Sweep()
	}
	apply(less)
	if len(h.formerReplies) != 0 {
		t.Errorf("%d ways to know replies are kept without a connection", len(h.formerReplies))
	}
}

// A connection that has ended does not stand in the way of one that goes on, where
// client and real are the same.
func TestNATRepliesOfTheConnectionThatLives(t *testing.T) {
	h := newNAT(t)
	s := natService()
	second := netip.AddrPortFrom(web.Addr(), 443)
	for _, order := range [][]uint16{{80, 443}, {443, 80}} {
		s.Listeners = nil
		for _, port := range order {
			s.Listeners = append(s.Listeners, lb.Listener{Addr: web.Addr(), Proto: lb.TCP, First: port, Last: port})
		}
		h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
		for _, vip := range []netip.AddrPort{web, second} {
			h.wantIn(natPacket{proto: lb.TCP, src: client, dst: vip, flags: "S"}, natReal)
			h.dp.Settings.Clock += 100 // SYN_RECV lasts a minute
			h.wantIn(natPacket{proto: lb.TCP, src: client, dst: vip, flags: "S"}, natReal)
			h.wantOut(natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "SA"}, vip)
			h.dp.Settings.Clock += 100
		}
	}
}

// A reply that gets no further than this host is none to the connection, as in the
// kernel, whose ip_forward throws it away before ip_vs_out.
func TestNATReplyWithoutTTLMeansNothing(t *testing.T) {
	h := newNAT(t, natService())
	h.wantIn(natPacket{proto: lb.TCP, src: client, dst: web, flags: "S"}, natReal)
	h.want(natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "R", change: func(ip []byte) { ip[8] = 1 }}.frame(), "answered_ttl", tx)
	all, err := h.Connections(0)
	must(t, err)
	if len(all) != 1 || all[0].State != "SYN_RECV" {
		t.Errorf("%+v", all)
	}
	if c := h.counters0(); c.OutPkts != 0 {
		t.Errorf("%d replies were counted", c.OutPkts)
	}
}

// A connection by another way has no replies here, also once its real is one by
// NAT: it was the sorry server of a service, of which another with the same name has
// this real. What the real sends on it is the kernel's, untouched.
func TestNATKnowsNoReplyOfAnotherWay(t *testing.T) {
	h := newNAT(t)
	apply := func(services ...lb.Service) {
		t.Helper()
		h.apply(lb.State{ExpireNodestConn: true, Services: services})
	}
	before := webService(0)
	before.Sorry = realN(1)
	apply(before)
	for _, flags := range []string{"S", "A"} {
		h.want(natPacket{proto: lb.TCP, src: client, dst: web, flags: flags}.frame(), "forwarded", tx)
	}
	apply()
	after := before
	after.Sorry = netip.Addr{}
	after.Listeners = []lb.Listener{{Addr: web.Addr(), Proto: lb.UDP, First: 0, Last: 0}}
	after.Reals = []lb.Real{{Addr: realN(1), Weight: 1, Forward: lb.NAT}}
	apply(after)
	for _, flags := range []string{"S", "SA", "A", "FA", "R"} {
		f := natPacket{proto: lb.TCP, src: netip.AddrPortFrom(realN(1), web.Port()), dst: client, flags: flags, options: 1}.frame()
		if out := h.want(f, "not_ours", pass); !bytes.Equal(out, f) {
			t.Errorf("%s was changed", flags)
		}
	}
	all, err := h.Connections(0)
	must(t, err)
	if len(all) != 1 || all[0].State != "ESTABLISHED" {
		t.Errorf("%+v", all)
	}
	if c := h.counters0(); c.OutPkts != 0 {
		t.Errorf("%d replies were counted", c.OutPkts)
	}
}
