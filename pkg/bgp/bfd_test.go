package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Session and BFD come up also where the interface had no address yet when BFD began, and the
// router answers nobody from elsewhere.
func TestBFDOfAnAddressThatCameLater(t *testing.T) {
	t.Parallel() // it waits most of its time
	l := newLab(t, directorASN, "bfd on;")
	d1, own := l.Host("d1"), netip.MustParsePrefix("172.25.0.11/24")
	run := func(argv ...string) string {
		t.Helper()
		out, err := d1.Run(t.Context(), argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, of := range []string{"all", "eth0"} {
		if err := l.Host("client").Sysctl("net.ipv4.conf."+of+".rp_filter", "1"); err != nil {
			t.Fatal(err)
		}
	}
	run("ip", "link", "add", "br0", "type", "bridge")
	run("ip", "link", "set", "br0", "up")
	run("ip", "addr", "add", "10.98.0.1/24", "dev", "br0")
	run("ip", "route", "add", "default", "via", "10.98.0.254")
	if err := d1.DelAddr("eth0", own); err != nil {
		t.Fatal(err)
	}
	d := l.speak("d1", "172.25.0.11", func(c *Config) {
		c.Peers[0].BFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
	})
	l.eventually("BFD has begun", func() bool {
		return strings.Contains(run("ss", "-Hun", "dport", "=", "3784"), "10.98.0.1")
	})
	if err := d1.AddAddr("eth0", own); err != nil {
		t.Fatal(err)
	}
	l.eventually("session and BFD stand", func() bool { return d.status().IsUp && d.status().BFD == "up" })
}

// BFD begins anew where it would come from another address, and not for a moment without a route.
// What it has begun with is known also where it was up at the first look.
func TestBFDFollowsItsSource(t *testing.T) {
	router, none := netip.MustParseAddr("192.0.2.254"), netip.Addr{}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	type look struct {
		source     netip.Addr
		isUp, want bool
	}
	for name, looks := range map[string][]look{
		"not up": {{none, false, false}, {a, false, false}, {a, false, false}, {none, false, false}, {a, false, false}, {b, false, true}, {b, false, false}, {none, false, false}, {a, false, true}},
		"up":     {{a, true, false}, {b, true, false}, {b, false, true}, {b, false, false}},
	} {
		sources := bfdSources{}
		for i, l := range looks {
			if got := sources.mustRestart(router, l.source, l.isUp); got != l.want {
				t.Errorf("%s, look %d, %s: %v", name, i, l.source, got)
			}
		}
	}
}
