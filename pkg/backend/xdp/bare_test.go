package xdp

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A VIP of VRRP that no service listens on is held by the kernel alone; lvx
// only sees to it that it is silent when it must be.
func TestVIPWithoutService(t *testing.T) {
	for name, services := range map[string][]lb.Service{"no service": nil, "services elsewhere": {webService(2)}} {
		t.Run(name, func(t *testing.T) {
			lone := netip.MustParseAddr("10.0.0.200")
			s := lb.State{ExpireNodestConn: true, Services: services, VIPs: leased(3, lone, netip.MustParseAddr("2001:db8::1"))}
			h := serving(t, s)
			request := arpFor(1, client.Addr(), lone)
			packets := map[string][]byte{
				"tcp":  frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(lone, 80)}),
				"udp":  frame(lb.Packet{Proto: lb.UDP, Src: client, Dst: netip.AddrPortFrom(lone, 53)}),
				"echo": echoTo(lone),
			}
			all := func(verdict string, action uint32) {
				t.Helper()
				for name, p := range packets {
					t.Log(name)
					h.want(p, verdict, action)
				}
			}
			h.want(request, "arp_silenced", drop)
			all("lease_over", drop)

			must(t, h.Renew(3, time.Hour))
			h.want(request, "not_our_mac", pass)
			h.want(packets["tcp"], "no_listener", pass)
			h.want(packets["udp"], "no_listener", pass)
			h.want(packets["echo"], "other_protocol", pass)

			s.VIPs = standby(lone)
			h.apply(s)
			h.want(request, "arp_silenced", drop)
			all("standby", pass)

			h.apply(lb.State{ExpireNodestConn: true, Services: services})
			h.want(request, "not_our_mac", pass)
			all("not_ours", pass)
		})
	}
}

// A VIP keeps its number, and with it its flows, when its last service goes
// and comes back.
func TestVIPKeepsNumberWithoutService(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}, VIPs: leased(0, vip)}
	h := serving(t, s)
	must(t, h.Renew(0, time.Hour))
	before, _ := h.vip(vip)
	s.Services = nil
	h.apply(s)
	for range 3 {
		h.Sweep()
	}
	bare, ok := h.vip(vip)
	if !ok || bare.TCP != before.TCP {
		t.Errorf("number %d became %d (known: %v)", before.TCP, bare.TCP, ok)
	}
	s.Services = []lb.Service{webService(1)}
	h.apply(s)
	if after, _ := h.vip(vip); after.TCP != before.TCP {
		t.Errorf("number %d became %d", before.TCP, after.TCP)
	}
}

// What is left of a lease survives the daemon.
func TestLeaseLeft(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, VIPs: leased(5, vip)})
	if got := h.LeaseLeft(5); got != 0 {
		t.Errorf("never renewed: %s", got)
	}
	must(t, h.Renew(5, time.Minute))
	if got := h.LeaseLeft(5); got <= time.Second || got > time.Minute+time.Second {
		t.Errorf("renewed for a minute: %s", got)
	}
	must(t, h.Renew(5, 0))
	if got := h.LeaseLeft(5); got != 0 {
		t.Errorf("ended: %s", got)
	}
	if got := h.LeaseLeft(1 << 20); got != 0 {
		t.Errorf("no such lease: %s", got)
	}
	if err := h.Renew(1<<20, time.Second); err == nil {
		t.Error("a lease out of range was renewed")
	}
}

// echoTo is an ICMP echo request.
func echoTo(dst netip.Addr) []byte {
	b := frame(lb.Packet{Proto: 1, Src: netip.AddrPortFrom(client.Addr(), 0), Dst: netip.AddrPortFrom(dst, 0)})
	b[34] = 8
	return b
}

// More VIPs than a line has places: none is lost, with services or without.
func TestManyBareVIPs(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}}
	var all []netip.Addr
	for i := range 2000 {
		all = append(all, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}))
	}
	s.VIPs = leased(1, all...)
	h := newHarness(t, 4096, 1024)
	must(t, h.Apply(context.Background(), s))
	must(t, h.Renew(1, time.Hour))
	for _, a := range all {
		if v, _, _ := h.verdict(echoTo(a)); v != "other_protocol" {
			t.Fatalf("%s: verdict %s", a, v)
		}
	}
	if got := h.Send(lb.Packet{Proto: lb.TCP, Src: client, Dst: web}); got.Real != realN(1) {
		t.Errorf("the service's VIP: %+v", got)
	}
}
