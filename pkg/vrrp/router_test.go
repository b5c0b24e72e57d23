package vrrp

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// nowhere is an instance on an interface that does not exist: a router can
// run it without sending anything.
func nowhere(edits ...func(*Instance)) Instance {
	return prio(100, append(edits, func(i *Instance) { i.Interface = "nosuch0" })...)
}

// running starts a router and gives a function that stops it and waits.
func running(t *testing.T, r *Router) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Run does not return")
		}
	})
}

func TestRouterLife(t *testing.T) {
	defer goleak.VerifyNone(t)
	var mu sync.Mutex
	calls := map[string]int{}
	count := func(what string) func(string) {
		return func(i string) { mu.Lock(); calls[what+" "+i]++; mu.Unlock() }
	}
	r := NewRouter(Options{Deactivate: count("deactivate")})
	if got := r.Status(); got != nil {
		t.Errorf("status before the start: %+v", got)
	}
	if err := r.Set([]Instance{nowhere()}); err != nil {
		t.Fatal(err)
	}
	r.SetTracked("web", false)
	stop := running(t, r)
	defer stop()
	e := <-r.Events()
	if e.Instance != "VI_1" || e.Old != Init || e.New != Fault || e.Why != "no interface nosuch0" || e.At.IsZero() {
		t.Errorf("first event %+v", e)
	}
	s := waitStatus(t, r, 1)[0]
	if s.Role != Fault || s.Why != "no interface nosuch0" || s.Priority != 100 || s.Since.IsZero() {
		t.Errorf("status %+v", s)
	}

	second := nowhere(func(i *Instance) {
		i.Name, i.VRID, i.Addresses = "VI_2", 52, prefixes("10.99.0.102/24")
	})
	if err := r.Set([]Instance{nowhere(), second}); err != nil {
		t.Fatal(err)
	}
	if e := <-r.Events(); e.Instance != "VI_2" {
		t.Errorf("the unchanged instance moved: %+v", e)
	}
	waitStatus(t, r, 2)
	if err := r.Set([]Instance{second, second}); err == nil {
		t.Error("two of one name were accepted")
	}
	if err := r.Set([]Instance{second}); err != nil {
		t.Fatal(err)
	}
	if e := <-r.Events(); e.Instance != "VI_1" || e.New != Init {
		t.Errorf("event of the removed instance: %+v", e)
	}
	waitStatus(t, r, 1)
	stop()
	for e := range r.Events() {
		if e.Instance != "VI_2" || e.New != Init {
			t.Errorf("event at the end: %+v", e)
		}
	}
	if calls["deactivate VI_1"] < 1 || calls["deactivate VI_2"] < 1 {
		t.Errorf("calls %v", calls)
	}
}

// Abandoned, a router ends without a transition and without a call: nobody is
// to notice.
func TestAbandonedRouter(t *testing.T) {
	defer goleak.VerifyNone(t)
	var calls atomic.Int32
	r := NewRouter(Options{
		Deactivate: func(string) { calls.Add(1) },
		Lease:      func(string, time.Duration) { calls.Add(1) },
		Left:       func(string) bool { calls.Add(1); return true },
	})
	if err := r.Set([]Instance{nowhere()}); err != nil {
		t.Fatal(err)
	}
	stop := running(t, r)
	<-r.Events() // Init to Fault
	for waitStatus(t, r, 1)[0].Role != Fault {
		time.Sleep(time.Millisecond)
	}
	for calls.Load() < 2 { // the fault's own: the data path inert, the lease over
		time.Sleep(time.Millisecond)
	}
	before := calls.Load()
	r.Abandon(nil)
	stop()
	for e := range r.Events() {
		t.Errorf("event at the end: %+v", e)
	}
	if now := calls.Load(); now != before {
		t.Errorf("%d calls at the end", now-before)
	}
}

// Holds end by release or by their limit, and say why.
func TestHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRouter(Options{})
		reasons := func(wantWait, wantBear string) {
			t.Helper()
			synctest.Wait()
			if got, want := *r.reasons.Load(), (holdReasons{wantWait, wantBear}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		release := r.Hold("connections", time.Minute)
		r.HoldPreemption("sync", time.Second)
		reasons("connections", "sync")
		time.Sleep(time.Second)
		reasons("connections", "")
		release()
		release()
		reasons("", "")
		r.Hold("again", time.Second)
		time.Sleep(time.Second)
		reasons("", "")
	})
}

func waitStatus(t *testing.T, r *Router, n int) []Status {
	t.Helper()
	for range 3000 {
		if s := r.Status(); len(s) == n {
			return s
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("status %+v, want %d instances", r.Status(), n)
	return nil
}

func TestRunThatIsCancelledAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := NewRouter(Options{})
	if err := r.Set([]Instance{nowhere()}); err != nil {
		t.Fatal(err)
	}
	running(t, r)()
	r.Claimed(vip, "too late")
	r.SetTracked("web", true)
}

// A reader of events that never comes loses the oldest, not the newest.
func TestEventsOverflow(t *testing.T) {
	r := NewRouter(Options{})
	l := &loop{events: r.events}
	for i := range 300 {
		l.sendEvent(Event{Instance: "VI_1", New: Role(i % 2)})
	}
	l.sendEvent(Event{Instance: "last"})
	close(r.events)
	n, last := 0, Event{}
	for last = range r.Events() {
		n++
	}
	if n != cap(r.events) || last.Instance != "last" {
		t.Errorf("%d events, the last %+v", n, last)
	}
}

func TestSetRefuses(t *testing.T) {
	other := func(edit func(*Instance)) []Instance {
		return []Instance{sample(nil), sample(func(i *Instance) {
			i.Name, i.VRID, i.Addresses = "VI_2", 52, prefixes("10.99.0.102/24")
			edit(i)
		})}
	}
	r := NewRouter(Options{})
	if err := r.Set(other(func(*Instance) {})); err != nil {
		t.Fatal(err)
	}
	for want, list := range map[string][]Instance{
		"two of this name":              other(func(i *Instance) { i.Name = "VI_1" }),
		"identifier 51 on eth0 is VI_1": other(func(i *Instance) { i.VRID = 51 }),
		"10.99.0.100 is also VI_1's":    other(func(i *Instance) { i.Addresses = prefixes("10.99.0.100/32") }),
		"priority 0":                    other(func(i *Instance) { i.Priority = 0 }),
	} {
		if err := r.Set(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	same := other(func(i *Instance) { i.VRID, i.Addresses, i.Version, i.AuthPass = 51, prefixes("fd99::100/64"), 3, "" })
	if err := r.Set(same); err != nil {
		t.Errorf("one identifier in both families: %v", err)
	}
}

// deaf makes a loop without sockets for what needs no network.
func deaf(t *testing.T, cfg Instance) (*loop, *vrouter, chan note) {
	t.Helper()
	notes := make(chan note, 100)
	r := NewRouter(Options{})
	l, err := newLoop(r, notes)
	if err != nil {
		t.Fatal(err)
	}
	v := newVrouter(l, item{cfg: cfg})
	v.cond.Self = addrB
	v.m.step(Start{Self: addrB}, time.Now())
	v.group, v.started = Group{v.m}, true
	l.routers = []*vrouter{v}
	t.Cleanup(func() { v.worker.close(); l.workers.Wait(); l.closeWake() })
	return l, v, notes
}

func wire(t *testing.T, p Packet) []byte {
	t.Helper()
	b, err := p.Append(nil, addrA, Group4)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Junk changes nothing but counters and the warning, and the log hears of
// it once a minute.
func TestJunk(t *testing.T) {
	l, v, notes := deaf(t, sample(nil))
	good := vectors[0].want
	bad := good
	bad.Password[0]++
	now := time.Now()
	before := *v.m
	for range 100 {
		v.handleDatagram(l, datagram{src: addrA, dst: Group4, ttl: 255, payload: wire(t, bad)}, now)
		v.handleDatagram(l, datagram{src: addrA, dst: Group4, ttl: 64, payload: wire(t, good)}, now)
		v.handleDatagram(l, datagram{src: addrB, dst: Group4, ttl: 255, payload: wire(t, good)}, now)
		now = now.Add(time.Second)
	}
	if after := *v.m; after.masterDown != before.masterDown || after.role != before.role {
		t.Errorf("junk changed the machine: %+v", after)
	}
	v.publishStatus()
	s := v.public.Load()
	if s.Dropped["password"] != 100 || s.Dropped["ttl"] != 100 || s.Dropped["own_address"] != 100 || len(s.Peers) != 0 {
		t.Errorf("dropped %v, peers %v", s.Dropped, s.Peers)
	}
	if len(notes) != 2 {
		t.Errorf("%d lines in 100 s, want 2", len(notes))
	}
	if n := <-notes; n.attrs[3].Value.Uint64() != 1 {
		t.Errorf("first line %v", n.attrs)
	}
	if n := <-notes; n.attrs[3].Value.Uint64() != 180 {
		t.Errorf("second line %v, want the 180 since", n.attrs)
	}
	v.handleDatagram(l, datagram{src: addrA, dst: Group4, ttl: 255, payload: wire(t, bad)}, now)
	if want := "another host (10.99.0.1) claims virtual router 51 with another password"; v.warning != want {
		t.Errorf("warning %q", v.warning)
	}

	v.handleDatagram(l, datagram{src: addrA, dst: Group4, ttl: 255, payload: wire(t, good)}, now)
	v.publishStatus()
	if s := v.public.Load(); len(s.Peers) != 1 || s.Peers[0] != (Peer{addrA, 150, now}) || v.m.masterDown == before.masterDown {
		t.Errorf("after a good one: %+v", s)
	}
}

func TestPeersAreBounded(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	for i := range 200 {
		src := netip.AddrFrom4([4]byte{10, 99, 1, byte(i)})
		v.handleDatagram(l, datagram{src: src, dst: Group4, ttl: 255, payload: wire(t, vectors[0].want)}, time.Now())
	}
	if len(v.peers) > maxPeers {
		t.Errorf("%d peers remembered", len(v.peers))
	}
}

// A warning ends with its cause.
func TestWarningsEnd(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	r := NewRouter(Options{})
	l.shown = &r.shown
	v.setWarning("trouble", time.Now().Add(minWarning))
	l.publishRouters()
	if got := r.Status()[0].Warning; got != "trouble" {
		t.Errorf("warning %q", got)
	}
	v.setWarning("trouble", time.Now().Add(-time.Millisecond))
	l.publishRouters()
	if got := r.Status()[0].Warning; got != "" {
		t.Errorf("old warning %q", got)
	}
}

func TestClaimed(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	l.handleClaim(vip, "02:00:00:00:00:01")
	if v.warning != "" {
		t.Error("a backup minds the master's claim")
	}
	v.m.role, v.m.active = Master, true
	l.handleClaim(addrA, "02:00:00:00:00:01")
	if v.warning != "" {
		t.Error("a claim of another address counts")
	}
	l.handleClaim(vip, "02:00:00:00:00:01")
	if v.warning != "" {
		t.Error("a claim while the role has just changed counts")
	}
	v.since = time.Now().Add(-time.Minute)
	v.peers[addrA] = Peer{addrA, 100, time.Now()}
	l.handleClaim(vip, "02:00:00:00:00:01")
	if v.warning != "" {
		t.Error("a peer that speaks is another host")
	}
	v.peers[addrA] = Peer{addrA, 100, time.Now().Add(-time.Minute)}
	l.handleClaim(vip, "02:00:00:00:00:01")
	if want := "another host (02:00:00:00:00:01) uses our address 10.99.0.100"; v.warning != want {
		t.Errorf("warning %q", v.warning)
	}
	if age := time.Until(v.warnUntil); age > claimWarning {
		t.Errorf("the warning lasts %s", age)
	}
	l.doAction(v, Change{Old: Master, New: Backup}, time.Now())
	if v.warning != "" {
		t.Error("the warning outlives the role")
	}
}

func TestFreshLease(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	if l.canResume(v) {
		t.Error("fresh without Held")
	}
	lease := v.cfg.leaseTime(100)
	for held, want := range map[time.Duration]bool{
		0: false, lease: true, lease - 2900*time.Millisecond: true, lease - 3*sec: false, lease - 4*sec: false,
	} {
		l.opts.Held = func(string) time.Duration { return held }
		if got := l.canResume(v); got != want {
			t.Errorf("held %s of %s: fresh %v", held, lease, got)
		}
	}
}

// Behind a stop the lease is long, and the peers know: a start listens for one that has
// become master, and the data path serves on meanwhile, if it does at all.
func TestStartBehindAStopListens(t *testing.T) {
	for _, c := range []struct{ left, want time.Duration }{{0, 0}, {time.Millisecond, 1100*time.Millisecond + busyTime}, {10 * sec, 10 * sec}} {
		l, v, _ := deaf(t, sample(nil))
		l.links = links{"eth0": {up: true, addrs: []netip.Prefix{netip.PrefixFrom(addrB, 24)}}}
		l.opts.Held = func(string) time.Duration { return c.left }
		l.opts.Resigned = func() bool { return true }
		var lease time.Duration
		l.opts.Lease = func(_ string, d time.Duration) { lease = d }
		v.started = false
		l.applyPlan(plan{items: []item{{cfg: v.cfg, holding: true}}})
		if role := l.routers[0].m.Role(); role != Backup {
			t.Errorf("%s left: %s at once", c.left, role)
		}
		if lease != c.want {
			t.Errorf("%s left: serves for %s, want %s", c.left, lease, c.want)
		}
	}
	l, v, _ := deaf(t, sample(nil)) // without a data path
	l.links = links{"eth0": {up: true, addrs: []netip.Prefix{netip.PrefixFrom(addrB, 24)}}}
	l.opts.Resigned = func() bool { return true }
	v.started = false
	l.applyPlan(plan{items: []item{{cfg: v.cfg, holding: true}}})
}

// A hold that a recovery asks for is there when the recovery ends, whatever plan
// is under way.
func TestHoldOfARecoveryIsSeenAtOnce(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	r := NewRouter(Options{})
	l.reasons = &r.reasons
	l.opts.Recovered = func(_ string, _ func()) { r.HoldPreemption("sync", time.Minute) }
	l.startRecovery(v)
	l.updateCondition(v, time.Now())
	if v.cond.Bear != "sync" {
		t.Errorf("the condition is %+v", v.cond)
	}
	l.applyPlan(plan{}) // made before
	if l.bear != "sync" {
		t.Errorf("a plan has undone the hold")
	}
}

// A virtual router that a reload gives the name of one which the same reload takes away
// keeps its data path, which is known by the name, when that one has ended.
func TestNameOfARouterThatEnds(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	var mu sync.Mutex
	var calls []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, what)
	}
	l.opts.Deactivate = func(name string) { note("deactivate " + name) }
	l.opts.Lease = func(name string, d time.Duration) {
		if d == 0 {
			note("end the lease of " + name)
		}
	}
	l.links = links{"eth0": {up: true, addrs: []netip.Prefix{netip.PrefixFrom(addrB, 24)}}}
	v.m.role, v.m.active = Master, true
	other := newVrouter(l, item{cfg: sample(func(i *Instance) {
		i.Name, i.VRID, i.Addresses = "VI_2", 52, prefixes("10.99.0.102/24")
	})})
	other.m.step(Start{Self: addrB}, time.Now())
	other.group, other.started = Group{other.m}, true
	l.routers = append(l.routers, other)
	l.applyPlan(plan{items: []item{{cfg: sample(func(i *Instance) { i.Name = "VI_2" })}}})
	if !other.leaving || v.cfg.Name != "VI_2" {
		t.Fatalf("leaving: %v, and the other one is %s", other.leaving, v.cfg.Name)
	}
	other.worker.close()
	v.worker.close()
	l.workers.Wait()
	if len(calls) > 0 {
		t.Errorf("%q, which is a master's", calls)
	}
}

// A master that a reload renumbers goes on at once also if its adverts are rarer from then
// on: the lease of before is over long before another master could be heard.
func TestRenumberedWithRarerAdverts(t *testing.T) {
	fast := sample(func(i *Instance) { i.Version, i.AuthPass, i.AdvertInterval = 3, "", 100*time.Millisecond })
	l, v, _ := deaf(t, fast)
	l.links = links{"eth0": {up: true, addrs: []netip.Prefix{netip.PrefixFrom(addrB, 24)}}}
	l.opts.Held = func(string) time.Duration { return fast.leaseTime(fast.Priority) }
	v.m.role, v.m.active = Master, true
	rare := fast
	rare.VRID, rare.AdvertInterval = 52, time.Second
	l.applyPlan(plan{items: []item{{cfg: rare, holding: true}}})
	if now := l.routers[0].m; len(l.routers) != 1 || now.cfg.VRID != 52 || now.Role() != Master {
		t.Errorf("%s, because %s", now.Role(), now.why)
	}
}

// A backup that a reload renames while it still gives up its data path, by the old name,
// gives it up by the new one, too: the data path has followed the name.
func TestRenamedWhileItGivesUp(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	l.links = links{"eth0": {up: true, addrs: []netip.Prefix{netip.PrefixFrom(addrB, 24)}}}
	calls, reload := make(chan string, 10), make(chan struct{})
	l.opts.Deactivate = func(name string) {
		calls <- name
		<-reload
	}
	l.doAction(v, Drop{}, time.Now())
	if name := <-calls; name != "VI_1" {
		t.Fatalf("%s gives up", name)
	}
	l.applyPlan(plan{items: []item{{cfg: sample(func(i *Instance) { i.Name = "VI_2" })}}})
	close(reload)
	v.worker.close()
	l.workers.Wait()
	close(calls)
	if name := <-calls; name != "VI_2" {
		t.Errorf("%q gives up", name)
	}
}
