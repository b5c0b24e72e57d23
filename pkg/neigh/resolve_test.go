package neigh

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// question is one ARP request that a fakeNet saw.
type question struct {
	At   time.Duration // since the start
	To   MAC           // zero = to all
	Addr netip.Addr
}

// fakeNet is a segment without a kernel.
type fakeNet struct {
	routeTable []Route
	mu         sync.Mutex
	start      time.Time
	events     chan event
	paths      map[netip.Addr]path
	answers    map[netip.Addr]MAC // who answers, with which MAC
	avoid      map[netip.Addr]bool
	asked      []question
	fault      error // of ask
	broken     error // of routes
	closed     bool
}

var eth0 = path{ifindex: 2, device: "eth0", mac: mac3, mtu: 1500}

func newFakeNet() *fakeNet {
	return &fakeNet{
		start:   time.Now(),
		events:  make(chan event, 4096),
		paths:   map[netip.Addr]path{r1: eth0, r2: eth0},
		answers: map[netip.Addr]MAC{},
	}
}

// set changes the segment while it is in use.
func (f *fakeNet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeNet) open() (<-chan event, error) { return f.events, nil }
func (f *fakeNet) keep(map[segmentKey]bool)    {}
func (f *fakeNet) close()                      { f.closed = true }

func (f *fakeNet) routes(addrs []netip.Addr, avoid map[netip.Addr]bool, bound map[netip.Addr]MAC) ([]path, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.avoid = avoid
	paths := make([]path, len(addrs))
	for i, a := range addrs {
		p, ok := f.paths[a]
		if !ok {
			p.err = "no route"
		}
		if mac, ok := bound[a]; ok {
			p.fixed = mac
		}
		paths[i] = p
	}
	return paths, f.broken
}

func (f *fakeNet) table() ([]Route, error) { return f.routeTable, nil }

func (f *fakeNet) ask(to MAC, p path, addr netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, question{time.Since(f.start), to, addr})
	if mac, ok := f.answers[addr]; ok && (to == MAC{} || to == mac) {
		f.events <- event{kind: spokeItself, ifindex: p.ifindex, addr: addr, mac: mac}
	}
	return f.fault
}

// since returns the questions that were asked since the last call.
func (f *fakeNet) since() []question {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.asked
	f.asked = nil
	return q
}

// bubble runs a Resolver on a fakeNet in fake time.
func bubble(t *testing.T, f func(t *testing.T, r *Resolver, n *fakeNet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet()
		r := newResolver(quiet(), n)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		f(t, r, n)
		cancel()
		if err := <-done; err != nil || !n.closed {
			t.Errorf("Run: %v, closed %v", err, n.closed)
		}
	})
}

func isChanged(r *Resolver) bool {
	synctest.Wait()
	select {
	case <-r.Changed():
		return true
	default:
		return false
	}
}

func wantEntry(t *testing.T, r *Resolver, addr netip.Addr, want Entry) {
	t.Helper()
	synctest.Wait()
	if d := cmp.Diff(want, r.Lookup(addr), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("%s (-want +got):\n%s", addr, d)
	}
}

func on(p path, mac MAC, err string) Entry {
	return Entry{MAC: mac, IfIndex: p.ifindex, Device: p.device, SrcMAC: p.mac, MTU: p.mtu, Local: p.local, Err: err, Pending: strings.Contains(err, "being looked for"), Silent: strings.Contains(err, "does not answer"), OwnLink: p.isLink}
}

func TestResolveAndRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		wantEntry(t, r, r1, Entry{Err: "172.25.0.12 has not been looked for yet", Pending: true})
		n.set(func() { n.answers[r1] = mac1 })
		r.Watch([]netip.Addr{r1})
		if !isChanged(r) || isChanged(r) {
			t.Error("want one change")
		}
		wantEntry(t, r, r1, on(eth0, mac1, ""))
		if d := cmp.Diff([]question{{0, MAC{}, r1}}, n.since(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("first questions:\n%s", d)
		}
		pass(time.Minute)
		q := n.since()
		if len(q) < 6 || len(q) > 8 {
			t.Errorf("%d refreshes in a minute, want about one per 10 s", len(q))
		}
		for _, q := range q {
			if q.To != mac1 {
				t.Errorf("refresh sent to %q, want to the station itself", q.To)
			}
		}
		if isChanged(r) {
			t.Error("a refresh without news is a change")
		}
	})
}

func TestSilentReal(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		r.Watch([]netip.Addr{r1})
		wantEntry(t, r, r1, on(eth0, MAC{}, "172.25.0.12 is being looked for on eth0"))
		pass(time.Second)
		wantEntry(t, r, r1, on(eth0, MAC{}, "172.25.0.12 does not answer ARP on eth0"))
		pass(19 * time.Second)
		var at []time.Duration
		for _, q := range n.since() {
			at = append(at, q.At)
		}
		ms := time.Millisecond
		want := []time.Duration{0, 100 * ms, 300 * ms, 700 * ms, 1500 * ms, 3100 * ms, 6300 * ms, 11300 * ms, 16300 * ms}
		if d := cmp.Diff(want, at); d != "" {
			t.Errorf("questions:\n%s", d)
		}
		n.set(func() { n.answers[r1] = mac1 })
		pass(lastRetry)
		wantEntry(t, r, r1, on(eth0, mac1, ""))
	})
}

func TestLostReal(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		n.set(func() { n.answers[r1] = mac1 })
		r.Watch([]netip.Addr{r1})
		synctest.Wait()
		isChanged(r)
		n.since()
		n.set(func() { delete(n.answers, r1) })
		for r.Lookup(r1).Usable() {
			pass(10 * time.Millisecond)
		}
		q := n.since()
		if len(q) != maxUnanswered+1 { // the last one is already the search
			t.Fatalf("%d questions, want %d", len(q), maxUnanswered+1)
		}
		for i, q := range q[:maxUnanswered] {
			if (i == 0) != (q.To == mac1) {
				t.Errorf("question %d went to %q", i, q.To)
			}
		}
		if took := q[maxUnanswered].At - q[0].At; took != maxUnanswered*retryInterval {
			t.Errorf("gave up after %s, want %s", took, maxUnanswered*retryInterval)
		}
		wantEntry(t, r, r1, on(eth0, MAC{}, "172.25.0.12 does not answer ARP on eth0"))
		if !isChanged(r) {
			t.Error("no change")
		}
	})
}

func TestOneMissedAnswerIsNoNews(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		n.set(func() { n.answers[r1] = mac1 })
		r.Watch([]netip.Addr{r1})
		isChanged(r)
		n.set(func() { delete(n.answers, r1) })
		pass(refreshInterval + retryInterval)
		n.set(func() { n.answers[r1] = mac1 })
		pass(2 * retryInterval)
		if isChanged(r) {
			t.Error("changed")
		}
		wantEntry(t, r, r1, on(eth0, mac1, ""))
	})
}

func TestMovedReal(t *testing.T) {
	moved := on(eth0, mac2, "")
	for name, c := range map[string]struct {
		word  func(r *Resolver, n *fakeNet)
		after time.Duration
	}{
		"it says so": {func(_ *Resolver, n *fakeNet) {
			n.events <- event{kind: spokeItself, ifindex: 2, addr: r1, mac: mac2}
		}, verifyTime},
		"the kernel noticed": {func(_ *Resolver, n *fakeNet) {
			n.events <- event{kind: kernelHint, ifindex: 2, addr: r1, mac: mac2}
		}, verifyTime},
		"the kernel has lost it": {func(_ *Resolver, n *fakeNet) {
			n.events <- event{kind: kernelHint, ifindex: 2, addr: r1}
		}, verifyTime},
		"a check failed": {func(r *Resolver, _ *fakeNet) { r.Recheck(r1) }, verifyTime},
		"without a word": {func(*Resolver, *fakeNet) {}, refreshInterval + retryInterval},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
				n.set(func() { n.answers[r1] = mac1 })
				r.Watch([]netip.Addr{r1})
				synctest.Wait()
				n.set(func() { n.answers[r1] = mac2 })
				c.word(r, n)
				pass(c.after + 2*burstGap)
				wantEntry(t, r, r1, moved)
			})
		})
	}
}

// A station that claims a real's address while the real answers where it was
// moves nothing, however often it says so, and is warned of.
func TestFalseClaim(t *testing.T) {
	var log strings.Builder
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet()
		r := newResolver(slog.New(slog.NewTextHandler(&log, nil)), n)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		n.set(func() { n.answers[r1] = mac1 })
		r.Watch([]netip.Addr{r1})
		synctest.Wait()
		isChanged(r)
		for range 50 {
			n.events <- event{kind: spokeItself, ifindex: 2, addr: r1, mac: mac2}
			pass(250 * time.Millisecond)
			wantEntry(t, r, r1, on(eth0, mac1, ""))
		}
		if isChanged(r) {
			t.Error("a false claim is a change")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if got := strings.Count(log.String(), `level=WARN msg="another station claims the address of a real server, which answers where it was"`); got != 1 {
		t.Errorf("%d warnings in 12 s, want one:\n%s", got, &log)
	}
	if !strings.Contains(log.String(), `"claimed by"=`+mac2.String()) {
		t.Errorf("the log does not name the station:\n%s", &log)
	}
}

// A MAC that the user gave is neither asked for nor moved, and ends when the
// user takes it back.
func TestBoundReal(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		n.set(func() { n.answers[r1] = mac1 })
		r.Bind(map[netip.Addr]MAC{r1: mac2})
		r.Watch([]netip.Addr{r1})
		wantEntry(t, r, r1, on(eth0, mac2, ""))
		n.events <- event{kind: spokeItself, ifindex: 2, addr: r1, mac: mac1}
		n.events <- event{kind: kernelHint, ifindex: 2, addr: r1, mac: mac1}
		r.Recheck(r1)
		pass(time.Minute)
		wantEntry(t, r, r1, on(eth0, mac2, ""))
		if q := n.since(); len(q) != 0 {
			t.Errorf("asked %v", q)
		}
		r.Bind(nil)
		pass(settleTime)
		wantEntry(t, r, r1, on(eth0, mac1, ""))
	})
}

func TestIgnored(t *testing.T) {
	for name, e := range map[string]event{
		"other interface": {kind: spokeItself, ifindex: 3, addr: r1, mac: mac2},
		"this host":       {kind: spokeItself, ifindex: 2, addr: r1, mac: mac3},
		"not watched":     {kind: spokeItself, ifindex: 2, addr: r2, mac: mac2},
		"kernel agrees":   {kind: kernelHint, ifindex: 2, addr: r1, mac: mac1},
		"kernel is wrong": {kind: kernelHint, ifindex: 2, addr: r1, mac: mac2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
				n.set(func() { n.answers[r1] = mac1 })
				r.Watch([]netip.Addr{r1})
				isChanged(r)
				n.events <- e
				pass(time.Second)
				if isChanged(r) {
					t.Error("changed")
				}
				wantEntry(t, r, r1, on(eth0, mac1, ""))
			})
		})
	}
}

func TestWaysThatChange(t *testing.T) {
	eth1 := path{ifindex: 3, device: "eth1", mac: mac2, mtu: 9000}
	down := path{ifindex: 2, device: "eth0", mac: mac3, mtu: 1500, err: "eth0 is down", isLink: true}
	local := path{ifindex: 1, device: "lo", mtu: 65536, local: true}
	longer := path{ifindex: 2, device: "eth0", mac: mac2, mtu: 1400}
	for name, c := range map[string]struct {
		to    path
		want  Entry
		asked int
	}{
		"other interface":  {eth1, on(eth1, mac1, ""), 1},
		"down":             {down, on(down, MAC{}, "eth0 is down"), 0},
		"local":            {local, on(local, MAC{}, ""), 0},
		"same, other MTU":  {longer, on(longer, mac1, ""), 0},
		"nothing has gone": {eth0, on(eth0, mac1, ""), 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
				n.set(func() { n.answers[r1] = mac1 })
				r.Watch([]netip.Addr{r1})
				n.since()
				n.set(func() { n.paths[r1] = c.to })
				for range 100 { // changes come in groups
					n.events <- event{kind: routesChanged}
				}
				pass(settleTime + burstGap)
				wantEntry(t, r, r1, c.want)
				if q := n.since(); len(q) != c.asked {
					t.Errorf("asked %v, want %d questions", q, c.asked)
				}
				// And back again: the flap is resolved at once.
				n.set(func() { n.paths[r1] = eth0 })
				n.events <- event{kind: routesChanged}
				pass(settleTime + burstGap)
				wantEntry(t, r, r1, on(eth0, mac1, ""))
			})
		})
	}
}

func TestWhatIsMissingIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		n := newFakeNet()
		r := newResolver(slog.New(slog.NewTextHandler(&log, nil)), n)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		lines := func(want ...string) {
			t.Helper()
			synctest.Wait()
			got := strings.Split(strings.TrimSpace(log.String()), "\n")
			log.Reset()
			if len(got) != len(want) {
				t.Errorf("got %q, want %q", got, want)
				return
			}
			for i := range want {
				if !strings.Contains(got[i], want[i]) {
					t.Errorf("got %q, want %q", got[i], want[i])
				}
			}
		}
		r.Watch([]netip.Addr{r1})
		pass(time.Minute)
		lines(`level=WARN msg="real server not found" component=neigh real=172.25.0.12 reason="172.25.0.12 does not answer ARP on eth0"`)
		n.set(func() { n.answers[r1] = mac1 })
		pass(time.Minute)
		lines(`level=INFO msg="real server resolved"`)
		down := eth0
		down.err = "eth0 is down"
		n.set(func() { n.paths[r1] = down })
		n.events <- event{kind: routesChanged}
		pass(time.Minute)
		lines(`level=WARN msg="real server lost" component=neigh real=172.25.0.12 mac=` + mac1.String() + ` reason="eth0 is down"`)
		n.set(func() { n.paths[r1] = eth0 })
		n.events <- event{kind: routesChanged}
		pass(time.Minute)
		lines(`level=INFO msg="real server resolved"`)
		n.set(func() { delete(n.answers, r1) })
		pass(time.Minute)
		lines(`level=WARN msg="real server lost"`)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFaults(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		n.set(func() { n.fault = errors.New("network is down") })
		r.Watch([]netip.Addr{r1})
		wantEntry(t, r, r1, on(eth0, MAC{}, "ARP request for 172.25.0.12 on eth0: network is down"))
		n.set(func() { n.fault = nil })
		n.set(func() { n.answers[r1] = mac1 })
		pass(firstRetry)
		wantEntry(t, r, r1, on(eth0, mac1, ""))

		n.set(func() { n.broken = errors.New("no netlink") })
		r.Watch([]netip.Addr{r1, r2})
		pass(retryInterval / 2)
		n.set(func() { n.broken, n.answers[r2] = nil, mac2 })
		wantEntry(t, r, r1, on(eth0, mac1, ""))
		pass(retryInterval)
		wantEntry(t, r, r2, on(eth0, mac2, ""))
	})
}

func TestWatchReplaces(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		n.set(func() { n.answers[r1], n.answers[r2] = mac1, mac2 })
		r.Watch([]netip.Addr{r1})
		n.since()
		r.Watch([]netip.Addr{r1, r2})
		if d := cmp.Diff([]question{{0, MAC{}, r2}}, n.since(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("questions for what is known already:\n%s", d)
		}
		r.Watch([]netip.Addr{r2})
		synctest.Wait()
		if r.Lookup(r1).Usable() {
			t.Error("an entry outlived its watch")
		}
		r.Avoid([]netip.Addr{vip1})
		synctest.Wait()
		if !n.avoid[vip1] {
			t.Error("the VIP is not avoided")
		}
	})
}

func TestManyReals(t *testing.T) {
	bubble(t, func(t *testing.T, r *Resolver, n *fakeNet) {
		var reals []netip.Addr
		a := netip.MustParseAddr("10.0.0.1")
		for range 2000 {
			reals = append(reals, a)
			n.set(func() { n.paths[a], n.answers[a] = eth0, mac1 })
			a = a.Next()
		}
		r.Watch(reals)
		pass(time.Second)
		for _, a := range reals {
			if e := r.Lookup(a); !e.Usable() {
				t.Fatalf("after 1 s: %s", e.Err)
			}
		}
		n.since()
		pass(refreshInterval)
		perBurst := map[time.Duration]int{}
		q := n.since()
		for _, q := range q {
			perBurst[q.At]++
			if perBurst[q.At] > burstSize {
				t.Fatalf("more than %d questions at once", burstSize)
			}
		}
		if len(q) < 2000 || len(perBurst) < 200 {
			t.Errorf("%d refreshes at %d moments, want them spread", len(q), len(perBurst))
		}
	})
}

func TestEntryTextsNameTheReal(t *testing.T) {
	tg := target{addr: r1, path: eth0}
	for range 5 {
		if e := tg.entry(); !strings.Contains(e.Err, r1.String()) || e.Usable() {
			t.Errorf("entry %+v", e)
		}
		tg.nextQuestion(time.Now())
	}
}

// pass lets fake time pass, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
