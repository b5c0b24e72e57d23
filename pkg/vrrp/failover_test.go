package vrrp_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv/pauses"
	"golang.org/x/sys/unix"
)

// The cases of vrrp-facts/keepalived-baseline, measured. Two variables of
// the environment ask for more than one run of lvx's:
//
//	LVX_FAILOVER_RUNS=10         runs per case
//	LVX_FAILOVER_KEEPALIVED=1    keepalived as well, in the same minutes
func failoverRuns(t *testing.T) (n int, programs []string) {
	n, programs = 1, []string{"lvx"}
	if s := os.Getenv("LVX_FAILOVER_RUNS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("LVX_FAILOVER_RUNS=%s (a number from 1)", s)
		}
	}
	if os.Getenv("LVX_FAILOVER_KEEPALIVED") != "" {
		programs = append(programs, "keepalived")
	}
	return n, programs
}

// setting is a pair of routers.
type setting struct {
	name          string
	better, worse vrrp.Instance
}

var settings = []setting{
	{"v2-1s", instance(2, time.Second, 150), instance(2, time.Second, 100)},
	{"v3-100ms", instance(3, 100*ms, 150), instance(3, 100*ms, 100)},
	{"v3-40ms", instance(3, 40*ms, 254), instance(3, 40*ms, 253)},
}

// dead is how long the worse router needs to notice.
func (s setting) dead() time.Duration {
	return 3*s.worse.AdvertInterval + time.Duration(256-int(s.worse.Priority))*s.worse.AdvertInterval/256
}

// duo is a running pair: a is better than b, c probes the VIP.
type duo struct {
	*lab
	setting
	program string
	begun   time.Time
	a, b    *daemon
	probe   *probe
	arp     *arpProbe
	adverts *capture
}

func newDuo(t *testing.T, program string, s setting) *duo {
	d := &duo{lab: newLab(t), setting: s, program: program, begun: time.Now()}
	d.a = d.run("a", s.better)
	d.eventually("a is master", func() bool { return d.has("a", vip.String()) })
	d.b = d.run("b", s.worse)
	d.adverts = d.capture("d", 0x0800)
	d.probe = d.lab.probe("c", vip)
	d.arp = d.arpProbe("d", vip)
	d.settle()
	return d
}

func (d *duo) run(host string, i vrrp.Instance) *daemon {
	if d.program == "keepalived" {
		return d.keepalived(host, i)
	}
	return d.lvx(host, i)
}

// settle waits until a serves alone, and then a little for timers and
// neighbour entries.
func (d *duo) settle() {
	d.t.Helper()
	d.eventually("a alone is master", func() bool { return d.has("a", vip.String()) && !d.has("b", vip.String()) })
	time.Sleep(d.worse.AdvertInterval + time.Second)
}

// result is one run of one case.
type result struct {
	loss
	takeover  time.Duration // first advert of b after the event, 0 if that is not what happened
	contested time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("lost %d, outage %s, takeover %s, two answerers %s", r.lost, r.outage.Round(ms), r.takeover.Round(ms), r.contested)
}

// after measures from begin for d.
func (d *duo) after(begin time.Time, wait time.Duration) (r result) {
	time.Sleep(wait - time.Since(begin))
	r.loss = d.probe.since(begin)
	for _, f := range d.adverts.adverts(hostAddrs["b"]) {
		if f.at.After(begin) {
			r.takeover = f.at.Sub(begin)
			break
		}
	}
	r.contested = d.arp.contested(begin)
	return r
}

func (d *duo) port(args ...string) {
	d.in("br", append([]string{"ip", "link", "set", "dev", "a"}, args...)...)
}

// block cuts a's bridge port silently: the carrier stays.
func (d *duo) block(state string) {
	d.in("br", "bridge", "link", "set", "dev", "a", "state", state)
}

// failover is one of the baseline's cases. It leaves a as master.
type failover struct {
	name string
	only string // one setting, all if empty
	run  func(d *duo) result
	lost func(s setting) int // most probes lvx may lose
}

func within(n int) func(setting) int { return func(setting) int { return n } }

// dark is for cases where nobody serves until the dead interval is over.
func dark(s setting) int { return int((s.dead()+50*ms)/probeEvery) + 1 }

var failovers = []failover{
	{name: "clean stop", lost: within(1), run: func(d *duo) result {
		begin := time.Now()
		d.a.stop()
		r := d.after(begin, 2*time.Second)
		d.a = d.run("a", d.better)
		return r
	}},
	{name: "kill -9", lost: within(0), run: func(d *duo) result {
		begin := time.Now()
		d.a.kill()
		r := d.after(begin, d.dead()+2*time.Second)
		d.a = d.run("a", d.better)
		return r
	}},
	{name: "kill -9, restart", lost: within(0), run: func(d *duo) result {
		begin := time.Now()
		d.a.kill()
		time.Sleep(rand.N(d.dead()))
		d.a = d.run("a", d.better)
		r := d.after(begin, 3*d.dead()+2*time.Second)
		return r
	}},
	{name: "link down", lost: dark, run: func(d *duo) result {
		begin := time.Now()
		d.port("down")
		r := d.after(begin, d.dead()+2*time.Second)
		d.port("up")
		return r
	}},
	{name: "heal", lost: within(0), run: func(d *duo) result {
		d.block("0")
		d.eventually("b is master as well", func() bool { return d.has("b", vip.String()) })
		time.Sleep(time.Second + rand.N(d.worse.AdvertInterval))
		begin := time.Now()
		d.block("3")
		return d.after(begin, d.dead()+6*time.Second)
	}},
	{name: "preempting return", lost: within(1), run: func(d *duo) result {
		d.a.stop()
		d.eventually("b is master", func() bool { return d.has("b", vip.String()) && !d.has("a", vip.String()) })
		time.Sleep(time.Second)
		begin := time.Now()
		d.a = d.run("a", d.better)
		return d.after(begin, d.dead()+3*time.Second)
	}},
	{name: "junk adverts", only: "v2-1s", lost: within(0), run: func(d *duo) result {
		begin := time.Now()
		d.junk(14*time.Second, 700*ms)
		r := d.after(begin, 15*time.Second)
		if d.program == "lvx" {
			d.checkBeat(begin)
		}
		return r
	}},
}

// junk sends adverts with a wrong password from d.
func (d *duo) junk(length, every time.Duration) {
	p := vrrp.Packet{Version: 2, VRID: 51, Priority: 200, Interval: time.Second, Auth: vrrp.AuthSimple,
		Password: [8]byte([]byte("wr0ng___")), Addrs: []netip.Addr{vip}}
	b, err := p.Append(nil, netip.MustParseAddr(hostAddrs["d"]), vrrp.Group4)
	if err != nil {
		d.t.Fatal(err)
	}
	var fd int
	d.inside("d", func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255)
		}
		if err == nil {
			err = unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, netip.MustParseAddr(hostAddrs["d"]).As4())
		}
		return err
	})
	defer unix.Close(fd)
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(every) {
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: vrrp.Group4.As4()}); err != nil {
			d.t.Fatal(err)
		}
	}
}

// checkBeat expects a's adverts on the second, none from b, and that both
// have noticed the junk without saying so each time.
func (d *duo) checkBeat(begin time.Time) {
	d.t.Helper()
	for _, f := range d.adverts.adverts(hostAddrs["b"]) {
		if f.at.After(begin) {
			d.t.Error("b became master")
		}
	}
	fs, w := d.adverts.adverts(hostAddrs["a"]), pauses.Start(d.t)
	for i := 1; i < len(fs); i++ {
		first, next := fs[i-1].at, fs[i].at
		if !first.After(begin) {
			continue
		}
		stood := w.Within(d.t, first.Add(-1500*ms), next)
		if gap := next.Sub(first); gap < 500*ms-stood || gap > 1500*ms+stood {
			d.t.Errorf("adverts %s apart", gap)
		}
	}
	for _, daemon := range []*daemon{d.a, d.b} {
		n := strings.Count(daemon.out.String(), "reason=password")
		if limit := 1 + int(time.Since(d.begun)/time.Minute); n < 1 || n > limit {
			d.t.Errorf("%d lines about wrong passwords, want 1 to %d", n, limit)
		}
	}
}

func TestFailover(t *testing.T) {
	n, programs := failoverRuns(t)
	for _, s := range settings {
		for _, program := range programs {
			for _, f := range failovers {
				if f.only != "" && f.only != s.name {
					continue
				}
				t.Run(s.name+"/"+program+"/"+f.name, func(t *testing.T) {
					t.Parallel()
					measure(t, newDuo(t, program, s), f, n)
				})
			}
		}
	}
}

// slack is how many probes others' work may cost beyond what is asked for and
// what the machine's pauses cost.
const slack = 4

func measure(t *testing.T, d *duo, f failover, n int) {
	var rs []result
	for range n {
		rs = append(rs, f.run(d))
		d.settle()
	}
	slices.SortFunc(rs, func(a, b result) int { return a.lost - b.lost })
	t.Logf("%-10s %-10s %-18s median of %d: %s", d.name, d.program, f.name, n, rs[n/2])
	t.Logf("%-10s %-10s %-18s worst:       %s", d.name, d.program, f.name, rs[n-1])
	for _, r := range rs {
		if most := f.lost(d.setting) + slack + r.mayLose; d.program == "lvx" && r.lost > most {
			t.Errorf("%s: %d probes lost, want at most %d", f.name, r.lost, most)
		}
	}
}
