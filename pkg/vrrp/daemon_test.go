package vrrp_test

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv/pauses"
)

// A reload leaves what has not changed alone, changes VIPs under way, and
// hands a removed instance over.
func TestReload(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	second := instance(3, 100*ms, 150, func(i *vrrp.Instance) {
		i.Name, i.VRID, i.Addresses = "VI_2", 52, []netip.Prefix{netip.MustParsePrefix("10.99.0.102/24")}
	})
	first := instance(3, 100*ms, 150)
	d := l.lvx("a", first, second)
	l.eventually("both are master", func() bool { return l.has("a", "10.99.0.100") && l.has("a", "10.99.0.102") })

	log := d.out.String()
	d.signal(syscall.SIGHUP)
	time.Sleep(time.Second)
	if now := d.out.String(); now != log {
		t.Errorf("a reload of the same made it say:\n%s", now[len(log):])
	}
	first.Addresses = []netip.Prefix{netip.MustParsePrefix("10.99.0.103/24"), first.Addresses[0]}
	writeInstances(t, d.conf, []vrrp.Instance{first, second})
	d.signal(syscall.SIGHUP)
	l.eventually("the new VIP is there", func() bool { return l.has("a", "10.99.0.103") })
	first.Addresses = first.Addresses[:1]
	writeInstances(t, d.conf, []vrrp.Instance{first})
	d.signal(syscall.SIGHUP)
	l.eventually("the old VIPs are gone", func() bool { return !l.has("a", "10.99.0.100") && !l.has("a", "10.99.0.102") })
	if !l.has("a", "10.99.0.103") || !l.has("a", hostAddrs["a"]) {
		t.Error("the reload took an address too many")
	}
	if d.says("instance=VI_1 from=MASTER") {
		t.Error("the instance that changed its VIPs was not master all the time")
	}
	first.VRID = 77 // another virtual router with the same VIP
	writeInstances(t, d.conf, []vrrp.Instance{first})
	p := l.probe("c", netip.MustParseAddr("10.99.0.103"))
	begin := time.Now()
	d.signal(syscall.SIGHUP)
	l.eventually("the new virtual router is master", func() bool { return d.says("resumes after a restart") })
	time.Sleep(time.Second)
	if got := p.since(begin); got.lost > 1+got.mayLose {
		t.Errorf("a new identifier lost %d probes", got.lost)
	}
	d.stop()
	if l.has("a", "10.99.0.103") || !l.has("a", hostAddrs["a"]) {
		t.Error("the VIP was left or the host's own address was taken")
	}
}

// A reload that takes the last virtual router away takes its VIP off, too.
func TestLastRouterGoes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := l.lvx("a", instance(3, 100*ms, 150))
	l.eventually("a is master", func() bool { return l.has("a", vip.String()) })
	writeInstances(t, d.conf, nil)
	d.signal(syscall.SIGHUP)
	l.eventually("it has ended", func() bool { return d.says("to=INIT") })
	l.eventually("the VIP is gone", func() bool { return !l.has("a", vip.String()) })
}

// Someone removes the VIP of a master: it comes back.
func TestRemovedVIPComesBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := l.lvx("a", instance(3, 100*ms, 150))
	l.eventually("a is master", func() bool { return l.has("a", vip.String()) })
	time.Sleep(500 * ms)
	if d.says("removed") {
		t.Error("its own doings look like someone else's")
	}
	l.in("a", "ip", "addr", "del", "10.99.0.100/24", "dev", "eth0")
	l.eventually("the VIP is back", func() bool { return l.has("a", vip.String()) })
}

// An interface that goes away and comes back is another one.
func TestInterfaceReturns(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	seen := l.capture("b", 0x0800)
	d := l.lvx("a", instance(3, 100*ms, 150))
	l.eventually("a is master", func() bool { return l.has("a", vip.String()) })
	l.in("br", "ip", "link", "del", "dev", "a")
	l.eventually("a has noticed", func() bool { return d.says("no interface eth0") })
	l.plug("a")
	l.eventually("a is master again", func() bool { return l.has("a", vip.String()) })
	n := len(seen.adverts(hostAddrs["a"]))
	l.eventually("adverts", func() bool { return len(seen.adverts(hostAddrs["a"])) > n+5 })
	d.stop()
	if l.has("a", vip.String()) {
		t.Error("the VIP was left")
	}
}

// Tracked interfaces: a weight lowers the priority, no weight is a fault;
// the group follows.
func TestTracking(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, dev := range []string{"w0", "f0"} {
		l.in("a", "ip", "link", "add", dev, "type", "veth", "peer", "name", dev+"p")
		l.in("a", "ip", "link", "set", dev, "up")
		l.in("a", "ip", "link", "set", dev+"p", "up")
	}
	pair := func(p uint8, edit func(*vrrp.Instance)) []vrrp.Instance {
		one := instance(3, 100*ms, p, func(i *vrrp.Instance) { i.SyncGroup = "G" })
		two := one
		two.Name, two.VRID, two.Addresses = "VI_2", 52, []netip.Prefix{netip.MustParsePrefix("10.99.0.102/24")}
		edit(&one)
		edit(&two)
		return []vrrp.Instance{one, two}
	}
	as := pair(150, func(i *vrrp.Instance) { i.Track = []vrrp.Track{{Interface: "w0", Weight: 100}} })
	as[0].Track = append(as[0].Track, vrrp.Track{Interface: "f0"})
	l.lvx("a", as...)
	l.eventually("a is master", func() bool { return l.has("a", "10.99.0.100") && l.has("a", "10.99.0.102") })
	l.lvx("b", pair(100, func(*vrrp.Instance) {})...)

	served := func(by, not string) func() bool {
		return func() bool {
			return l.has(by, "10.99.0.100") && l.has(by, "10.99.0.102") && !l.has(not, "10.99.0.100") && !l.has(not, "10.99.0.102")
		}
	}
	for _, dev := range []string{"w0", "f0"} {
		l.in("a", "ip", "link", "set", dev+"p", "down")
		l.eventually("b serves without a's "+dev, served("b", "a"))
		l.in("a", "ip", "link", "set", dev+"p", "up")
		l.eventually("a serves with "+dev, served("a", "b"))
	}
	l.in("a", "ip", "link", "del", "f0")
	l.eventually("b serves when a has lost f0", served("b", "a"))
}

// Adverts keep their rhythm while every processor is busy with garbage, as
// in a large reload. The numbers are printed; the test fails where a peer
// would fail over although the machine let its processors run.
func TestBeatUnderLoad(t *testing.T) {
	const interval = 50 * ms
	for _, tt := range []struct {
		name  string
		flags []string
	}{{"idle", nil}, {"busy", []string{"-busy", "2"}}, {"busy, real time", []string{"-busy", "2", "-realtime", "50"}}} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			w := pauses.Start(t)
			seen := l.capture("b", 0x0800)
			l.lvxWith("a", tt.flags, instance(3, interval, 254))
			l.eventually("100 adverts", func() bool { return len(seen.adverts(hostAddrs["a"])) > 100 })
			fs := seen.adverts(hostAddrs["a"])
			var late []time.Duration
			longest := 1 // the advert after the longest gap
			gap := func(i int) time.Duration { return fs[i].at.Sub(fs[i-1].at) }
			for i := 1; i < len(fs); i++ {
				due := fs[i].at.Sub(fs[0].at)
				late = append(late, due-(due+interval/5).Truncate(interval))
				if gap(i) > gap(longest) {
					longest = i
				}
			}
			slices.Sort(late)
			t.Logf("off the schedule: median %s, p99 %s, worst %s; longest gap %s", late[len(late)/2], late[len(late)*99/100], late[len(late)-1], gap(longest))
			// Without real-time priority the host's other work counts.
			if most := 3*interval + w.Within(t, fs[longest-1].at, fs[longest].at); slices.Contains(tt.flags, "-realtime") && gap(longest) > most {
				t.Errorf("%s between two adverts %s apart, want at most %s", gap(longest), interval, most)
			}
		})
	}
}

// Hundreds of VIPs and dozens of instances fail over as one does: about when its
// master counts as dead.
func TestFailoverOfMany(t *testing.T) {
	vips := func(n, at int) (ps []netip.Prefix) {
		for i := range n {
			ps = append(ps, netip.MustParsePrefix(fmt.Sprintf("10.99.%d.%d/16", 1+(at+i)/250, 1+(at+i)%250)))
		}
		return ps
	}
	build := func(instances, each int) func(p uint8) []vrrp.Instance {
		return func(p uint8) (list []vrrp.Instance) {
			for n := range instances {
				list = append(list, instance(3, 100*ms, p, func(i *vrrp.Instance) {
					i.Name, i.VRID, i.Addresses = fmt.Sprint("VI_", n+1), uint8(n+1), vips(each, n*each)
				}))
			}
			return list
		}
	}
	dead := setting{worse: build(1, 1)(worse)[0]}.dead()
	for _, tt := range []struct {
		name  string
		build func(uint8) []vrrp.Instance
	}{{"1 instance, 1 VIP", build(1, 1)}, {"1 instance, 250 VIPs", build(1, 250)}, {"50 instances, 1 VIP each", build(50, 1)}} {
		got := failoverOf(t, tt.name, tt.build)
		if most := 4*dead + got.paused; got.outage > most {
			t.Errorf("%s: outage %s, want at most %s: a master counts as dead after %s", tt.name, got.outage, most, dead)
		}
	}
}

// The priorities of a master and its backup.
const better, worse = 150, 100

// failoverOf is what the last VIP lost from the death of a to its arrival on b.
func failoverOf(t *testing.T, name string, build func(uint8) []vrrp.Instance) loss {
	t.Helper()
	l := newLab(t)
	list := build(better)
	final := list[len(list)-1].Addresses
	last := final[len(final)-1].Addr()
	a := l.lvx("a", list...)
	l.eventually("a is master", func() bool { return l.has("a", last.String()) })
	l.lvx("b", build(worse)...)
	for _, host := range []string{"c", "b"} {
		l.in(host, "ip", "route", "add", "10.99.0.0/16", "dev", "eth0", "src", hostAddrs[host])
	}
	time.Sleep(time.Second)
	p := l.probe("c", last)
	time.Sleep(300 * ms)
	begin := time.Now()
	a.kill()
	l.in("a", "ip", "link", "set", "eth0", "down")
	l.eventually("b is master", func() bool { return l.has("b", last.String()) })
	time.Sleep(500 * ms)
	got := p.since(begin)
	t.Logf("%s: outage %s", name, got.outage.Round(ms))
	return got
}
