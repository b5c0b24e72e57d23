package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
)

// The mistakes of IPv6, as TestDoctor has those of IPv4.
func TestDoctorIPv6(t *testing.T) {
	r := newRig6(t)
	d1, r1, client := r.Cluster.Host("d1"), r.Cluster.Host("r1"), r.Client
	must(t, r.Direct(t.Context(), "d1", "backend: xdp\n"+service6("    check: {type: tcp, interval: 200ms, timeout: 1s, fall: 2}\n", "fd25::12", "fd25::13")))
	eventually(t, func() error {
		if found := examine(t, r); len(found) > 0 {
			return fmt.Errorf("a healthy director: %q", found)
		}
		return nil
	})
	vip := netip.PrefixFrom(netip.MustParseAddr(vip6), 128)
	ip := func(h *testenv.Host, line string) error {
		_, err := h.Run(t.Context(), append([]string{"ip", "-6"}, strings.Fields(line)...)...)
		return err
	}
	proxy := func(value, op string) error {
		return errors.Join(r1.Sysctl("net.ipv6.neigh.eth0.proxy_delay", "0"), r1.Sysctl("net.ipv6.conf.all.forwarding", value), r1.Sysctl("net.ipv6.conf.eth0.proxy_ndp", value),
			ip(r1, "neigh "+op+" proxy "+vip6+" dev eth0"))
	}
	for _, m := range []mistake{
		{
			"a real has the VIP on another interface",
			func() error { return r1.AddAddr("eth0", vip) }, func() error { return r1.DelAddr("eth0", vip) },
			"real-answers-arp real fd25::12",
		},
		{
			"a real is a proxy for the VIP",
			func() error { return proxy("1", "add") }, func() error { return proxy("0", "del") },
			"real-answers-arp real fd25::12",
		},
		{
			"a real lacks the VIP",
			func() error { return r1.DelAddr("lo", vip) }, func() error { return r1.AddAddr("lo", vip) },
			"real-down real fd25::12",
		},
		{
			"another host has the VIP, as a second master would",
			func() error { return client.AddAddr("eth0", vip) }, func() error { return client.DelAddr("eth0", vip) },
			"vip-elsewhere VIP " + vip6,
		},
		{
			"a rule marks packets too late",
			func() error {
				_, err := d1.Run(t.Context(), strings.Fields("ip6tables -t mangle -A PREROUTING -d "+vip6+" -p tcp --dport 80 -j MARK --set-mark 10")...)
				return err
			},
			func() error { _, err := d1.Run(t.Context(), "ip6tables", "-t", "mangle", "-F"); return err },
			"bypassed-mark firewall",
		},
		{
			"the way to a real is narrow",
			func() error { return ip(d1, "route add fd25::13/128 dev eth0 mtu 1400") },
			func() error { return ip(d1, "route del fd25::13/128 dev eth0") },
			"small-mtu real fd25::13",
		},
		{
			"a gateway is before a real",
			func() error { return ip(d1, "route add fd25::13/128 via fd25::12") },
			func() error { return ip(d1, "route del fd25::13/128") },
			"real-off-segment real fd25::13",
		},
	} {
		m.check(t, r)
	}
}
