//go:build ipvsvm

package fallback

import (
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// TestKernelNAT is the article's first experiment: masquerading, from 002-nat.yaml
// without the interface of the reals, by the kernel's IPVS therefore.
func TestKernelNAT(t *testing.T) {
	l := natLab(t)
	const url = "http://172.16.0.7"
	l.run(strings.Replace(example(t, "002-nat"), "[eth0, eth1]", "[eth0]", 1))
	l.want("6 requests", l.curl(6, url), "rs2 rs1 rs2 rs1 rs2 rs1")
	l.contains(l.lvx("list", "-n"), "TCP 172.16.0.7:80 rr", "-> 192.168.79.27:80 Masq 1 0 3", "-> 192.168.79.37:80 Masq 1 0 3")
	l.want("where it runs", l.places()["web"], "ipvs: replies of 192.168.79.27 come by eth1, which XDP does not serve (add it to interfaces:)")
	// Replies pass the director: they are counted.
	tb.Eventually(t, patience, func() error { return noZeros(l.lvx("list", "-n", "--stats")) })

	l.edit("scheduler: rr", "scheduler: wrr", "37, weight: 1", "37, weight: 2")
	got := l.curl(6, url)
	if strings.Count(got, "rs1") != 2 || strings.Count(got, "rs2") != 4 {
		t.Errorf("wrr 1:2: %s", got)
	}
	l.contains(l.lvx("list", "-n"), "TCP 172.16.0.7:80 wrr", "-> 192.168.79.37:80 Masq 2")

	l.lvx("weight", "web", "192.168.79.27", "0")
	l.want("weight 0", l.curl(4, url), "rs2 rs2 rs2 rs2")
	l.lvx("weight", "web", "192.168.79.37", "0")
	l.want("no real left", l.curl(2, url), "refused refused")

	if _, err := l.director.ServeWeb(); err != nil {
		t.Fatal(err)
	}
	l.edit("forward: nat", "forward: nat\n    sorry_server: 127.0.0.1")
	l.want("the director's own page", l.curl(2, url), "director director")
	l.contains(l.lvx("list", "-n"), "-> 127.0.0.1:80 Route 1")

	// The cure that status names makes the daemon start anew: XDP serves then, and
	// what IPVS has begun goes on.
	l.lvx("weight", "web", "192.168.79.27", "--clear")
	l.want("the real is back", l.curl(1, url), "rs1")
	open := l.hold("172.16.0.7")
	l.want("an open connection", open.ask(), "rs1")
	l.edit("[eth0]", "[eth0, eth1]")
	l.want("where it runs with all interfaces", l.places()["web"], "xdp")
	l.want("the open connection after that", open.ask(), "rs1")
	l.want("a new one", l.curl(1, url), "rs1")
}

// TestKernelDirectRouting is the article's second experiment by the kernel's
// IPVS, from its files.
func TestKernelDirectRouting(t *testing.T) { directRouting(drLab(t), "ipvs", "ipvs") }

// TestKernelAuto is the same by XDP. The daemon goes on from there: it is
// given what XDP cannot do, and services that move.
func TestKernelAuto(t *testing.T) {
	l := drLab(t)
	directRouting(l, "auto", "xdp")
	l.lvx("weight", "web", "192.168.79.27", "--clear")
	l.lvx("weight", "web", "192.168.79.37", "--clear")
	moving(l)
	everywhere(l)
}

func directRouting(l *lab, backend, place string) {
	on := "backend: " + backend + "\n"
	l.run(on + example(l.T, "002-dr"))
	l.want("6 requests", l.curl(6, url), "rs2 rs1 rs2 rs1 rs2 rs1")
	l.contains(l.lvx("list", "-n"), "TCP "+vip+":80 rr", "-> 192.168.79.27:80 Route 1", "-> 192.168.79.37:80 Route 1")
	l.want("where it runs", l.places()["web"], place)
	l.lvx("status", "--check") // an error if anything is down

	l.run(on + example(l.T, "002-wrr"))
	got := l.curl(6, url)
	if strings.Count(got, "rs1") != 2 || strings.Count(got, "rs2") != 4 {
		l.Errorf("wrr 1:2: %s", got)
	}
	l.lvx("weight", "web", "192.168.79.37", "0")
	l.want("weight 0", l.curl(3, url), "rs1 rs1 rs1")

	if _, err := l.director.ServeWeb(); err != nil {
		l.Fatal(err)
	}
	l.run(on + example(l.T, "002-sorry"))
	tb.Eventually(l, patience, func() error { return one(l.curl(1, url), "rs1") })
	// The article's outage: the last real goes.
	l.lvx("weight", "web", "192.168.79.27", "0")
	l.want("the director's own page", l.curl(2, url), "director director")
	l.contains(l.lvx("list", "-n"), "-> 127.0.0.1:80 Route 1")
}
