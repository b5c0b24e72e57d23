package xdp

import (
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// packetTo is a packet of the n-th client port.
func packetTo(to netip.AddrPort, n int, flags string) []byte {
	return frame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), uint16(1000+n)), Dst: to, Flags: flags})
}

// Tables of another size keep the connections of a VIP whose number was another
// VIP's before: whichever half of the VIPs is in force, the other one may still give
// the number to the former VIP.
func TestNumberOfAFormerVIPWhenTablesMove(t *testing.T) {
	former := webService(1)
	former.Listeners = former.Listeners[:1]
	first := lb.State{ExpireNodestConn: true, Services: []lb.Service{former}}
	second := lb.State{ExpireNodestConn: true, Services: []lb.Service{other()}}
	to := netip.AddrPortFrom(other().Listeners[0].Addr, 80)
	h := newHarness(t, 4096, 1024)
	for n := range 2 {
		h.apply(first)
		was := h.numbers.of[endpoint{vip, lb.TCP}]
		for range 2 + n { // which half is in force at the end
			h.apply(lb.State{ExpireNodestConn: true})
		}
		for range idlePasses {
			h.Sweep()
		}
		h.apply(second)
		if is := h.numbers.of[endpoint{to.Addr(), lb.TCP}]; is != was {
			t.Fatalf("the number is %d, not %d", is, was)
		}
		for i := range 20 {
			h.want(packetTo(to, i, "S"), "forwarded", tx)
		}
		h.opts.Flows *= 2
		h.succeed()
		h.net.asking = false
		h.apply(second)
		for i := range 20 {
			h.want(packetTo(to, i, "A"), "forwarded", tx)
		}
		h.pass(1000)
	}
}

// Numbers that no VIP has are given out at the next start, too, however high those
// are that are in use.
func TestNumbersAreNotUsedUpByStarts(t *testing.T) {
	h := newStill(t, 1024, 256)
	h.numbers.next = bpf.VIPNumbers - 1
	h.apply(lb.State{Services: []lb.Service{other()}})
	h.dp.Adopted = true
	next := newBackend(h.dp, h.opts)
	if _, err := next.numbers.get(endpoint{vip, lb.TCP}); err != nil {
		t.Errorf("one number is in use: %v", err)
	}
}
