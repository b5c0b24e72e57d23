package probe

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

var vip128 = netip.PrefixFrom(vip6, 128)

// network6 is [network] with IPv6 addresses on the director and r1, which has
// an IPv6 VIP on lo.
func network6(t *testing.T, full bool) (d1, r1 *testenv.Host) {
	t.Helper()
	c := network(t, full)
	d1, r1 = c.Host("d1"), c.Host("r1")
	for h, a := range map[*testenv.Host]netip.Addr{d1: local6, r1: real6} {
		check(t, h.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0"))
		check(t, h.Sysctl("net.ipv6.conf.lo.disable_ipv6", "0"))
		check(t, h.AddAddr("eth0", netip.PrefixFrom(a, 64)))
	}
	check(t, r1.AddAddr("lo", vip128))
	// The network of the VIP is on the segment, as a director's is.
	tb.Run(t, r1, "ip", "-6", "route", "add", "2001:db8::/64", "dev", "eth0")
	return d1, r1
}

// through6 and straight6 ask the same of r1, by way of the IPv6 VIP and not.
func through6(s health.Spec, port uint16) health.Target {
	s.Via = health.ViaVIP
	return health.Target{Spec: timed(s), Real: real6, Port: port, VIP: vip6}
}

func straight6(s health.Spec, port uint16) health.Target {
	s.Via = health.ViaReal
	return health.Target{Spec: timed(s), Real: real6, Port: port}
}

func serveUDP6(t *testing.T, h *testenv.Host, addr netip.Addr) {
	t.Helper()
	p, err := h.ListenPacket("udp6", netip.AddrPortFrom(addr, 53).String())
	check(t, err)
	go echo(p)
}

// Every kind of check goes through an IPv6 VIP, and none through one that the
// real does not have.
func TestThroughIPv6VIP(t *testing.T) {
	for _, c := range []struct{ full, owned, clsact, xdp bool }{
		{xdp: true},
		{xdp: true, full: true, owned: true},
		{owned: true, clsact: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			d1, r1 := network6(t, c.full)
			web(t, r1, ":80", ":443")
			serveUDP6(t, r1, vip6)
			if c.owned { // the VIP is the director's own address, too
				check(t, d1.AddAddr("eth0", vip128))
			}
			before := trace(t, d1)
			j := job{Clsact: c.clsact, XDP: c.xdp, Targets: []health.Target{
				through6(health.Spec{Type: health.TCP}, 80),
				through6(health.Spec{Type: health.HTTP}, 80),
				through6(health.Spec{Type: health.HTTPS, SkipVerify: true}, 443),
				through6(health.Spec{Type: health.UDP, Send: "ping", Expect: "ping"}, 53),
				through6(health.Spec{Type: health.ICMP}, 0),
				straight6(health.Spec{Type: health.HTTP}, 80),
			}}
			want := []map[string]int{{"pass": 1}, {"pass": 1}, {"pass": 1}, {"pass": 1}, {"pass": 1}, {"pass": 1}}
			if diff := cmp.Diff(want, probe(t, d1, j)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if after := trace(t, d1); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// What is wrong with a real has the words that it has for IPv4.
func TestThroughIPv6VIPFails(t *testing.T) {
	d1, r1 := network6(t, true)
	web(t, r1, "[fd25::12]:80")
	serveUDP6(t, r1, real6)
	wants := map[health.Type]string{
		health.HTTP: "connects on fd25::12 but refuses VIP 2001:db8::100: is the service bound to its own address only?",
		health.UDP:  "answers on fd25::12 but refuses VIP 2001:db8::100: is the service bound to its own address only?",
	}
	if got := one(t, d1, through6(health.Spec{Type: health.HTTP}, 80)); got != wants[health.HTTP] {
		t.Errorf("http: %q, want %q", got, wants[health.HTTP])
	}
	if got := one(t, d1, through6(health.Spec{Type: health.UDP, Send: "x"}, 53)); got != wants[health.UDP] {
		t.Errorf("udp: %q, want %q", got, wants[health.UDP])
	}
	check(t, r1.DelAddr("lo", vip128))
	got := probe(t, d1, job{Targets: []health.Target{
		through6(health.Spec{Type: health.HTTP, Timeout: short}, 80), through6(health.Spec{Type: health.ICMP, Timeout: short}, 0),
	}})
	want := []map[string]int{
		{"connects on fd25::12 but not through VIP 2001:db8::100: is the VIP on lo?": 1},
		{"answers on fd25::12 but not through VIP 2001:db8::100: is the VIP on lo?": 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without the VIP (-want +got):\n%s", diff)
	}
}
