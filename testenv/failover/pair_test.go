package failover

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/pauses"
	"github.com/lvx-lb/lvx/testenv/rigtest"
)

const ms = time.Millisecond

// self is the lvx under test.
var self string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	// They mostly wait: how many run at once is not for the processors to say.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return rigtest.Main(m, &self)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// router is the virtual router of the measured baseline.
func router(version int, interval time.Duration, priority uint8, edits ...func(*vrrp.Instance)) vrrp.Instance {
	r := vrrp.Instance{
		Name: "VI_1", Interface: "eth0", VRID: 51, Version: version, Priority: priority, AdvertInterval: interval,
		Addresses: []netip.Prefix{netip.PrefixFrom(VIP, 24)},
	}
	if version == 2 {
		r.AuthPass = "s3cr3t12"
	}
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

// setting is a pair of routers, the first better than the second.
type setting struct {
	name          string
	better, worse vrrp.Instance
}

// vip is the address that clients use: the last one, since of several IPv6 ones
// the first is link-local.
func (s setting) vip() netip.Addr { return s.better.Addresses[len(s.better.Addresses)-1].Addr() }

// dead is how long the worse one needs to notice that the other is gone.
func (s setting) dead() time.Duration {
	interval := s.worse.AdvertInterval
	return 3*interval + time.Duration(256-int(s.worse.Priority))*interval/256
}

// newSegment builds a segment that ends with the test.
func newSegment(t testing.TB) *Segment {
	t.Helper()
	s, err := New()
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

// pair is two routers that run: a is better than b. c probes the VIP, d
// watches.
type pair struct {
	*Segment
	setting
	t       testing.TB
	program Program
	a, b    *Daemon
	echo    *Echo
	pauses  *pauses.Watch
	watch   *Watch
}

func newPair(t testing.TB, program Program, s setting) *pair {
	t.Helper()
	p := &pair{Segment: newSegment(t), setting: s, t: t, program: program}
	if p.vip().Is6() {
		p.enableIPv6()
	}
	p.a = p.start("a", s.better)
	p.await("a has the VIP", func() error { return p.Alone("a", "b", p.vip()) })
	p.b = p.start("b", s.worse)
	must(t, p.b.WaitOutput(t.Context(), "BACKUP")) // both programs say so
	p.probe(p.vip())
	p.settle()
	return p
}

// probe begins to ask for an address.
func (p *pair) probe(addr netip.Addr) {
	p.t.Helper()
	p.pauses = pauses.Start(p.t)
	var err error
	p.echo, err = StartEcho(p.Host("c"), addr)
	must(p.t, err)
	p.watch, err = StartWatch(p.Host("d"), addr)
	must(p.t, err)
	p.t.Cleanup(func() {
		_ = p.echo.Close()
		_ = p.watch.Close()
	})
}

func (p *pair) start(host string, r ...vrrp.Instance) *Daemon {
	p.t.Helper()
	return start(p.t, p.program, p.Host(host), r...)
}

func start(t testing.TB, program Program, h *testenv.Host, r ...vrrp.Instance) *Daemon {
	t.Helper()
	d, err := program.Start(h, r...)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s on %s:\n%s", program, h.Name, d.Output())
		}
	})
	return d
}

func (p *pair) stop(d *Daemon) {
	p.t.Helper()
	if err := d.Stop(); err != nil {
		p.t.Errorf("%s at its end: %v", p.program, err)
	}
}

func (p *pair) await(what string, f func() error) {
	p.t.Helper()
	var running []*Daemon
	for _, d := range []*Daemon{p.a, p.b} {
		if d != nil {
			running = append(running, d)
		}
	}
	must(p.t, Await(context.Background(), what, f, running...))
}

// settle waits until a serves alone and the client knows it, and then a
// little for timers.
func (p *pair) settle() {
	p.t.Helper()
	p.await("a alone serves", func() error {
		if err := p.Alone("a", "b", p.vip()); err != nil {
			return err
		}
		return p.answers("a")
	})
	time.Sleep(p.worse.AdvertInterval + 500*ms)
}

// answers returns, as an error, why this router is not the only one that
// answers for the VIP.
func (p *pair) answers(host string) error {
	begin := time.Now()
	time.Sleep(100 * ms)
	answers := p.watch.Answers(begin)
	if len(answers) == 0 || slices.ContainsFunc(answers, func(f Frame) bool { return macOf(f) != p.mac(host) }) {
		return fmt.Errorf("%d answers, not all of them %s's", len(answers), host)
	}
	return nil
}

// succeeds waits until a router has the VIPs of one that has stopped, and alone
// answers for them. The other one may have them still: where no successor spoke in
// time it leaves them to its next start, and is silent about them.
func (p *pair) succeeds(host string) {
	p.t.Helper()
	p.await(host+" is master", func() error {
		for _, a := range p.better.Addresses {
			if ok, err := p.Has(host, a.Addr()); err != nil || !ok {
				return fmt.Errorf("no %s on %s: %v", a.Addr(), host, err)
			}
		}
		return p.answers(host)
	})
}

// result is one run of one case.
type result struct {
	Loss
	takeover time.Duration // the first advert of b after the event; 0: none
	both     time.Duration // two hosts answered for the VIP
	changes  int           // times that b became the one who advertises
	paused   time.Duration // the machine's processors stood still
}

func (r result) String() string {
	return fmt.Sprintf("lost %d of %d, outage %s, takeover %s, two answerers %s, took over %d times",
		r.Lost, r.Probes, r.Outage.Round(ms), r.takeover.Round(ms), r.both, r.changes)
}

// measure waits until so long after the event, and returns what happened since.
func (p *pair) measure(event time.Time, wait time.Duration) (r result) {
	time.Sleep(time.Until(event.Add(wait)))
	r.Loss = p.echo.Since(event)
	r.paused = p.pauses.Within(p.t, event, time.Now())
	r.both = p.watch.Both(event)
	adverts := append(p.adverts("a", event), p.adverts("b", event)...)
	slices.SortFunc(adverts, func(x, y Frame) int { return x.At.Compare(y.At) })
	before := false
	for _, f := range adverts {
		is := macOf(f) == p.mac("b")
		if is && r.takeover == 0 {
			r.takeover = f.At.Sub(event)
		}
		if is && !before {
			r.changes++
		}
		before = is
	}
	return r
}

func (p *pair) mac(host string) [6]byte { return [6]byte(p.Host(host).MAC("eth0")) }

// adverts are what d has heard of a host since a moment.
func (p *pair) adverts(host string, begin time.Time) []Frame {
	return p.watch.Adverts(p.Host(host).MAC("eth0"), begin)
}
