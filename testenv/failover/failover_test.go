package failover

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
)

var (
	v2second = setting{"v2, 1 s", router(2, time.Second, 150), router(2, time.Second, 100)}
	v3tenth  = setting{"v3, 100 ms", router(3, 100*ms, 150), router(3, 100*ms, 100)}
	v3quick  = setting{"v3, 40 ms", router(3, 40*ms, 254), router(3, 40*ms, 253)}
)

// failover is one thing that happens. It ends with a on its way to being
// master again.
type failover struct {
	name  string
	times int // how often more than asked for, in halves
	run   func(p *pair) result
	lost  func(s setting) int           // most probes that lvx may lose
	both  func(s setting) time.Duration // longest that two may answer for the VIP
}

func atMost[T any](n T) func(setting) T { return func(setting) T { return n } }

// dark is for cases where nobody serves until the dead interval is over.
func dark(s setting) int { return int(s.dead()/EchoEvery) + 1 }

// lease is how much longer than the dead interval a host may serve whose
// daemon has died: an advert, or what is left of 500 ms.
func lease(s setting) time.Duration {
	return max(s.worse.AdvertInterval, 500*ms-s.dead()+s.worse.AdvertInterval)
}

const handover = 20 * ms // two may answer while one takes over from the other

var (
	cleanStop = failover{name: "clean stop", lost: atMost(1), both: atMost(handover), run: func(p *pair) result {
		begin := time.Now()
		p.stop(p.a)
		r := p.measure(begin, p.dead()+time.Second)
		p.a = p.start("a", p.better)
		return r
	}}
	kill = failover{name: "kill -9", lost: atMost(0), both: lease, run: func(p *pair) result {
		begin := time.Now()
		p.a.Kill()
		r := p.measure(begin, p.dead()+2*time.Second)
		p.a = p.start("a", p.better)
		return r
	}}
	killAndRestart = failover{name: "kill -9, restart", lost: atMost(0), both: lease, run: func(p *pair) result {
		begin := time.Now()
		p.a.Kill()
		time.Sleep(rand.N(p.dead()))
		p.a = p.start("a", p.better)
		return p.measure(begin, 2*p.dead()+2*time.Second)
	}}
	linkDown = failover{name: "link down", lost: dark, both: atMost(handover), run: func(p *pair) result {
		begin := time.Now()
		must(p.t, p.Unplug("a", true))
		r := p.measure(begin, p.dead()+time.Second)
		must(p.t, p.Unplug("a", false))
		return r
	}}
	heal = failover{name: "partition heals", times: 1, lost: atMost(0), both: lease, run: func(p *pair) result {
		must(p.t, p.Block(p.t.Context(), "a", true))
		p.await("b is master as well", func() error {
			ok, err := p.Has("b", p.vip())
			if err == nil && !ok {
				err = fmt.Errorf("b has no VIP")
			}
			return err
		})
		time.Sleep(time.Second + rand.N(p.worse.AdvertInterval))
		begin := time.Now()
		must(p.t, p.Block(p.t.Context(), "a", false))
		r := p.measure(begin, p.dead()+3*time.Second)
		r.takeover = 0 // it was master before
		return r
	}}
	preemptingReturn = failover{name: "preempting return", lost: atMost(1), both: atMost(handover), run: func(p *pair) result {
		p.stop(p.a)
		p.succeeds("b")
		time.Sleep(500 * ms)
		begin := time.Now()
		p.a = p.start("a", p.better)
		p.settle()
		r := p.measure(begin, 0)
		r.takeover = 0 // it was master before
		return r
	}}
	junk = failover{name: "junk adverts", lost: atMost(0), both: atMost(time.Duration(0)), run: func(p *pair) result {
		begin := time.Now()
		must(p.t, sendJunk(p.Host("d"), foreign(p.setting), junkFor, p.better.AdvertInterval*7/10))
		r := p.measure(begin, 15*time.Second)
		if p.program.String() == "lvx" {
			p.checkBeat(begin)
		}
		return r
	}}
)

const junkFor = 14 * time.Second

// foreign is the advertisement of a better router of somebody else's, who
// took the same identifier: with another password, or other VIPs.
func foreign(s setting) vrrp.Packet {
	p := vrrp.Packet{Version: uint8(s.better.Version), VRID: 51, Priority: 200, Interval: s.better.AdvertInterval, Addrs: []netip.Addr{VIP}}
	if p.Version == 2 {
		p.Auth, p.Password = vrrp.AuthSimple, [8]byte([]byte("wr0ng___"))
	} else {
		p.Addrs = []netip.Addr{netip.MustParseAddr("10.99.0.99")}
	}
	return p
}

// sendJunk sends an advertisement again and again.
func sendJunk(h *testenv.Host, p vrrp.Packet, length, every time.Duration) error {
	b, err := p.Append(nil, Addr(h.Name), vrrp.Group4)
	if err != nil {
		return err
	}
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255); err != nil {
			return err
		}
		if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, Addr(h.Name).As4()); err != nil {
			return err
		}
		for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(every) {
			if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: vrrp.Group4.As4()}); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkBeat expects that b never speaks and that a's adverts stay on the
// beat.
func (p *pair) checkBeat(begin time.Time) {
	p.t.Helper()
	if n := len(p.adverts("b", begin)); n > 0 {
		p.t.Errorf("b sent %d adverts", n)
	}
	fs := p.adverts("a", begin)
	every := p.better.AdvertInterval
	off := every / 2 // a busy machine's share; one that junk moved would be off by 0.7
	for i := 1; i < len(fs); i++ {
		if gap := fs[i].At.Sub(fs[i-1].At); gap < every-off || gap > every+off {
			p.t.Errorf("two adverts %s apart, want %s", gap, every)
		}
	}
	if len(fs) < int(junkFor/every) {
		p.t.Errorf("%d adverts in 14 s", len(fs))
	}
}

// batches are the cases that follow each other on one segment; batches run
// at the same time.
var batches = []struct {
	setting
	cases []failover
	asked bool // only when failovers are measured
}{
	{v2second, []failover{cleanStop, kill, killAndRestart}, false},
	{v2second, []failover{linkDown, heal, preemptingReturn}, false},
	{v2second, []failover{junk}, false},
	{v3tenth, []failover{cleanStop, kill, killAndRestart, linkDown, heal, preemptingReturn}, false},
	{v3tenth, []failover{junk}, true}, // its beat is too quick for a busy machine
	{v3quick, []failover{linkDown, cleanStop}, false},
	{v3tenth6, []failover{kill}, false},
	{v3tenth6, []failover{cleanStop, killAndRestart, linkDown, heal, preemptingReturn}, true}, // a busy kernel is late with new IPv6 addresses
}

// plan says how often and with whom: one run of lvx's, or what
// LVX_FAILOVER_RUNS asks for, of keepalived's as well.
func plan(t *testing.T) (runs int, programs []Program) {
	programs = []Program{LVX{Self: self, Body: "services: []\n"}}
	s := os.Getenv("LVX_FAILOVER_RUNS")
	if s == "" {
		return 1, programs
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("LVX_FAILOVER_RUNS=%s (a number from 1)", s)
	}
	return n, append(programs, Keepalived{})
}

func TestFailover(t *testing.T) {
	runs, programs := plan(t)
	if len(programs) == 1 {
		t.Parallel()
	}
	var all table
	t.Run("measure", func(t *testing.T) {
		for _, b := range batches {
			if b.asked && len(programs) == 1 {
				continue
			}
			for _, program := range programs {
				t.Run(fmt.Sprintf("%s/%s", b.name, program), func(t *testing.T) {
					t.Parallel()
					p := newPair(t, program, b.setting)
					for _, f := range b.cases {
						all.add(p, f, repeat(p, f, runs+f.times*runs/2))
					}
				})
			}
		}
	})
	t.Log("\n" + all.String())
}

func repeat(p *pair, f failover, n int) (rs []result) {
	for range n {
		rs = append(rs, f.run(p))
		p.settle()
	}
	if p.program.String() == "lvx" {
		for _, r := range rs {
			judge(p, f, r)
		}
	}
	return rs
}

// What others' work may add without its being lvx's fault, beside the pauses
// of the machine's processors, which are measured.
const (
	slackLost = 6
	slackBoth = 250 * ms
)

// lostBy is how many probes a pause of the machine costs.
func lostBy(paused time.Duration) int { return int((paused + EchoEvery - 1) / EchoEvery) }

func judge(p *pair, f failover, r result) {
	if most := f.lost(p.setting) + slackLost + lostBy(r.paused); r.Lost > most {
		p.t.Errorf("%s, %s: %s; want at most %d lost", p.name, f.name, r, most)
	}
	if most := f.both(p.setting) + slackBoth + r.paused; r.both > most {
		p.t.Errorf("%s, %s: %s; want two answerers for at most %s", p.name, f.name, r, most)
	}
}

// table collects results and prints them.
type table struct {
	mu   sync.Mutex
	rows [][]string
}

func (t *table) add(p *pair, f failover, rs []result) {
	middle := func(get func(result) time.Duration) string {
		ds := make([]time.Duration, len(rs))
		for i, r := range rs {
			ds[i] = get(r).Round(ms)
		}
		if slices.Sort(ds); ds[len(ds)-1] == 0 {
			return "-"
		}
		return fmt.Sprintf("%s (%s)", ds[len(ds)/2], ds[len(ds)-1])
	}
	lost := make([]int, len(rs))
	changes := 0
	for i, r := range rs {
		lost[i] = r.Lost
		changes = max(changes, r.changes)
	}
	slices.Sort(lost)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, []string{
		f.name, p.name, p.program.String(), strconv.Itoa(len(rs)),
		fmt.Sprintf("%d (%d)", lost[len(lost)/2], lost[len(lost)-1]),
		middle(func(r result) time.Duration { return r.Outage }),
		middle(func(r result) time.Duration { return r.takeover }),
		middle(func(r result) time.Duration { return r.both }), strconv.Itoa(changes),
	})
}

// String is the table: medians, and the worst in brackets.
func (t *table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\tsetting\tprogram\truns\tprobes lost\toutage\tb's first advert\ttwo answer\tb took over")
	slices.SortStableFunc(t.rows, func(x, y []string) int { return strings.Compare(x[0]+x[1], y[0]+y[1]) })
	for _, r := range t.rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
	return b.String()
}
