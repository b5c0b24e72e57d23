package vip

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// shown is what ip prints, one blank between words.
func shown(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// othersRoutes are all routes but the kernel's own, which a work queue of its
// brings.
func othersRoutes(t *testing.T) string {
	t.Helper()
	lines := strings.Split(shown(t, "route", "show", "table", "all"), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "proto kernel") }), "\n")
}

// Routes and rules come, may come again, and go, and nothing else goes with
// them.
func TestRouting(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		if _, err := Add(index, parse("192.0.2.100/24", "2001:db8::100/64")); err != nil {
			t.Fatal(err)
		}
		p, a := netip.MustParsePrefix, netip.MustParseAddr
		r := Routing{
			Routes: []Route{
				{To: p("198.51.100.0/24"), Via: a("192.0.2.254"), Source: a("192.0.2.100"), Metric: 5},
				{To: p("0.0.0.0/0"), Via: a("192.0.2.254"), Interface: "eth0", Table: 100},
				{To: p("10.0.0.0/8"), Interface: "eth0"},
				{To: p("2001:db8:1::/48"), Via: a("2001:db8::1")},
			},
			Rules: []Rule{
				{From: p("192.0.2.100/32"), Table: 100, Priority: 1000},
				{To: p("198.51.100.0/24"), Interface: "eth0", Mark: 7, Table: 100},
				{From: p("2001:db8::/32"), Table: 101, Priority: 1001, IPv6: true},
			},
		}
		before := othersRoutes(t) + shown(t, "rule") + shown(t, "-6", "rule")
		for range 2 {
			if err := r.Add(); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct{ in, line string }{
			{shown(t, "route"), "198.51.100.0/24 via 192.0.2.254 dev eth0 src 192.0.2.100 metric 5"},
			{shown(t, "route"), "10.0.0.0/8 dev eth0 scope link"},
			{shown(t, "route", "show", "table", "100"), "default via 192.0.2.254 dev eth0"},
			{shown(t, "-6", "route"), "2001:db8:1::/48 via 2001:db8::1 dev eth0"},
			{shown(t, "rule"), "1000: from 192.0.2.100 lookup 100"},
			{shown(t, "rule"), "from all to 198.51.100.0/24 fwmark 0x7 iif eth0 lookup 100"},
			{shown(t, "-6", "rule"), "1001: from 2001:db8::/32 lookup 101"},
		} {
			if strings.Count(want.in, want.line) != 1 {
				t.Errorf("%q is not there once:\n%s", want.line, want.in)
			}
		}
		for range 2 {
			if err := r.Remove(); err != nil {
				t.Fatal(err)
			}
		}
		if after := othersRoutes(t) + shown(t, "rule") + shown(t, "-6", "rule"); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
}

// What the kernel does not take is an error that names it, and keeps nothing
// else away.
func TestRoutingRefused(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		if _, err := Add(index, parse("192.0.2.100/24")); err != nil {
			t.Fatal(err)
		}
		p, a := netip.MustParsePrefix, netip.MustParseAddr
		r := Routing{Routes: []Route{
			{To: p("198.51.100.0/24"), Via: a("203.0.113.1")}, {To: p("10.0.0.0/8"), Interface: "eth9"}, {To: p("10.1.0.0/16"), Interface: "eth0"},
		}}
		err := r.Add()
		if err == nil || !strings.Contains(err.Error(), "add route 198.51.100.0/24: network is unreachable") || !strings.Contains(err.Error(), "interface eth9") {
			t.Errorf("got %v", err)
		}
		if out := shown(t, "route"); !strings.Contains(out, "10.1.0.0/16 dev eth0") {
			t.Errorf("the third route is not there:\n%s", out)
		}
		if err := r.Remove(); err != nil {
			t.Error(err)
		}
	})
}

// The place of a route can be another one's: the kernel answers as if it were
// there already.
func TestRoutingPlaceTaken(t *testing.T) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		if _, err := Add(index, parse("192.0.2.100/24", "2001:db8::100/64")); err != nil {
			t.Fatal(err)
		}
		p, a := netip.MustParsePrefix, netip.MustParseAddr
		for _, other := range []string{
			"198.51.100.0/24 via 192.0.2.253", "default via 192.0.2.253 table 100", "10.0.0.0/8 via 192.0.2.253", "10.1.0.0/16 dev eth0 src 192.0.2.100",
			"2001:db8:1::/48 via 2001:db8::2", "blackhole 10.2.0.0/16",
		} {
			shown(t, append([]string{"route", "add"}, strings.Fields(other)...)...)
		}
		before := othersRoutes(t)
		for _, r := range []Route{
			{To: p("198.51.100.0/24"), Via: a("192.0.2.254")},
			{To: p("0.0.0.0/0"), Via: a("192.0.2.254"), Interface: "eth0", Table: 100},
			{To: p("10.0.0.0/8"), Interface: "eth0"},
			{To: p("10.1.0.0/16"), Interface: "eth0"},
			{To: p("10.2.0.0/16"), Interface: "eth0"},
			{To: p("10.2.0.0/16"), Via: a("192.0.2.254")},
			{To: p("2001:db8:1::/48"), Via: a("2001:db8::1")},
			{To: p("192.0.2.0/24"), Interface: "eth0"},
		} {
			if err := (Routing{Routes: []Route{r}}).Add(); err == nil || !strings.Contains(err.Error(), "add route "+r.To.String()+": another route has its place") {
				t.Errorf("%+v: %v", r, err)
			}
		}
		if after := othersRoutes(t); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
}

func TestRoutingWithout(t *testing.T) {
	p := netip.MustParsePrefix
	a := Routing{Routes: []Route{{To: p("10.0.0.0/8"), Metric: 1}, {To: p("10.0.0.0/8"), Metric: 2}}, Rules: []Rule{{Table: 1}, {Table: 2}}}
	left := a.Without(Routing{Routes: a.Routes[:1], Rules: a.Rules[1:]})
	if len(left.Routes) != 1 || left.Routes[0].Metric != 2 || len(left.Rules) != 1 || left.Rules[0].Table != 1 {
		t.Errorf("got %+v", left)
	}
}
