package realserver_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/realserver"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// Each tunnel has its device for each family of VIPs, and an MSS that fits it; nothing
// is left of it afterwards.
func TestTunnelFamilies(t *testing.T) {
	r := newReal(t)
	devices := []string{"tunl0", "sit0", "lvx-ip6tnl", "gre0", "ip6gre0"}
	addDevices(t, r, devices...)
	before := inspect(t, r.Host)
	for _, c := range []struct {
		vip    netip.Addr
		tunnel realserver.Tunnel
		device string
		mss    string
	}{
		{vip1, "ipip", "tunl0", "1440"},
		{vip1, "ipip6", "lvx-ip6tnl", "1420"},
		{vip1, "gre", "gre0", "1436"},
		{vip1, "gre6", "ip6gre0", "1416"},
		{vip6, "ipip", "sit0", "1420"},
		{vip6, "ipip6", "lvx-ip6tnl", "1400"},
		{vip6, "gre", "gre0", "1416"},
		{vip6, "gre6", "ip6gre0", "1396"},
	} {
		name := string(c.tunnel) + " " + c.vip.String()
		report := r.do(t, realserver.Up, realserver.Options{VIPs: []netip.Addr{c.vip}, Tunnel: c.tunnel, Interface: "eth0"})
		for _, line := range []string{c.device + ": up", c.vip.String() + ": MSS at most " + c.mss} {
			if !strings.Contains(report, line) {
				t.Errorf("%s: report lacks %q:\n%s", name, line, report)
			}
		}
		if got := troubles(r.status(t)); got != "" {
			t.Errorf("%s: status says %q", name, got)
		}
		// Another tunnel's device is none for these packets.
		for _, other := range devices {
			tb.Run(t, r.Host, "ip", "link", "set", other, "up")
		}
		tb.Run(t, r.Host, "ip", "link", "set", c.device, "down")
		if got := troubles(r.status(t)); !strings.Contains(got, "no tunnel device is up that takes ") || !strings.Contains(got, "(as "+c.device+" does)") {
			t.Errorf("%s: without the device, status says %q", name, got)
		}
		for _, other := range devices {
			tb.Run(t, r.Host, "ip", "link", "set", other, "down")
		}
		r.do(t, realserver.Up, realserver.Options{VIPs: []netip.Addr{c.vip}})
		if c.vip.Is4() {
			tb.Run(t, r.Host, "nft", "delete", "table", "ip", "lvx_real")
			tb.Run(t, r.Host, "ip", "route", "add", "10.9.0.0/16", "dev", "eth0")
			noError(t, r.Sysctl("net.ipv4.conf."+c.device+".rp_filter", "1"))
			for _, want := range []string{"MSS of " + c.vip.String() + " 1460", "rp_filter of " + c.device + " 1"} {
				if got := troubles(r.status(t)); !strings.Contains(got, want) {
					t.Errorf("%s: status says %q, want %q", name, got, want)
				}
			}
			noError(t, r.Sysctl("net.ipv4.conf."+c.device+".rp_filter", "2"))
			tb.Run(t, r.Host, "ip", "route", "del", "10.9.0.0/16", "dev", "eth0")
		} else {
			tb.Run(t, r.Host, "nft", "delete", "table", "ip6", "lvx_real")
			tb.Run(t, r.Host, "ip", "-6", "route", "replace", "fd98::/64", "dev", "eth0")
			if got := troubles(r.status(t)); !strings.Contains(got, "MSS of "+c.vip.String()+" 1440") {
				t.Errorf("%s: without the rule, status says %q", name, got)
			}
			noError(t, r.Sysctl("net.ipv6.conf."+c.device+".disable_ipv6", "1"))
			if got := troubles(r.status(t)); !strings.Contains(got, c.device+" takes no IPv6") {
				t.Errorf("%s: without IPv6, status says %q", name, got)
			}
			noError(t, r.Sysctl("net.ipv6.conf."+c.device+".disable_ipv6", "0"))
			tb.Run(t, r.Host, "ip", "-6", "route", "del", "fd98::/64", "dev", "eth0")
		}
		if report := r.down(t); !strings.Contains(report, c.device+": down again") {
			t.Errorf("%s: down says:\n%s", name, report)
		}
		want(t, r.Host, name+": down", before)
		if got := tb.Run(t, r.Host, "nft", "list", "tables"); got != "" {
			t.Errorf("%s: tables after down: %s", name, got)
		}
	}
}

// A VIP that comes by another tunnel leaves the first one's device as it was.
func TestTunnelExchanged(t *testing.T) {
	r := newReal(t)
	addDevices(t, r, "tunl0", "gre0")
	r.do(t, realserver.Up, tunnelled)
	o := tunnelled
	o.Tunnel = "gre"
	report := r.do(t, realserver.Up, o)
	for _, line := range []string{"172.25.0.100: taken off tunl0", "172.25.0.100: put on gre0", "gre0: up", "tunl0: down again", "net.ipv4.conf.tunl0.rp_filter: 0 again", "MSS at most 1436"} {
		if !strings.Contains(report, line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
	if st := r.status(t); !st.IsReady() || !slices.ContainsFunc(st.Settings, func(s realserver.Setting) bool { return s.Name == "rp_filter of gre0" }) {
		t.Errorf("status %+v", st)
	}
	if report := r.down(t); strings.Contains(report, "tunl0") || !strings.Contains(report, "gre0: down again") {
		t.Errorf("down says:\n%s", report)
	}
}
