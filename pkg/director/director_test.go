package director

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHealthMovesTraffic(t *testing.T) {
	svc := service("web", 1, 1)
	svc.Sorry = sorryIP
	inBubble(t, configOf(svc), func(t *testing.T, r *rig) {
		r.want("at the start", "")
		r.busyWith(func() { // so that both are in one plan, and told in its order
			r.health.result(1, true, "")
			r.health.result(2, true, "")
		})
		r.want("after the first passes", "1*1 2*1")
		r.notified("rs 10.0.0.11:80 up", "rs 10.0.0.12:80 up", "service web up")
		r.health.result(1, false, "tcp connect: refused (failed 3 times)")
		r.want("one is down", "2*1")
		r.notified("rs 10.0.0.11:80 down: tcp connect: refused (failed 3 times)")
		r.health.result(2, false, "timeout")
		r.want("both are down", "")
		r.notified("rs 10.0.0.12:80 down: timeout",
			"service web down: weight 0 up, quorum needs 1, the sorry server answers")
		r.health.result(2, true, "")
		r.want("one is back", "2*1")
	})
}

// Many events that wait while the loop is busy are one plan.
func TestEventsCoalesce(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1, 1)), func(t *testing.T, r *rig) {
		synctest.Wait()
		before := len(r.backend.Applied())
		r.busyWith(func() {
			for n := range 3 {
				r.health.result(n+1, true, "")
			}
		})
		r.want("all three", "1*1 2*1 3*1")
		if n := len(r.backend.Applied()) - before; n != 1 {
			t.Errorf("%d states applied for three events at once, want 1", n)
		}
	})
}

// slow is a backend with so many services that Apply takes a while.
type slow struct{ *lbtest.Fake }

func (s slow) Apply(ctx context.Context, st lb.State) error {
	time.Sleep(100 * time.Millisecond)
	return s.Fake.Apply(ctx, st)
}

// A storm of events leaves the loop time for others; its last event counts.
func TestStormIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, configOf(service("web", 1, 1)))
		r.opt.Backend = slow{r.backend}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = r.Director.Run(ctx) }()
		<-r.Ready()
		before := len(r.backend.Applied())
		for i := range 200 {
			r.health.result(1, i%2 == 0, "flaps")
			time.Sleep(10 * time.Millisecond)
		}
		r.health.result(2, true, "")
		time.Sleep(time.Second)
		r.want("in the end", "2*1")
		if n := len(r.backend.Applied()) - before; n > 12 {
			t.Errorf("%d states applied in 3 s", n)
		}
	})
}

func TestDriftIsRepaired(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.Services[0].Checks = nil
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.want("at the start", "1*1")
		if err := r.backend.Damage(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(driftInterval)
		synctest.Wait()
		out := r.backend.Send(lb.Packet{Proto: lb.TCP, Src: netip.MustParseAddrPort("172.16.0.1:1024"), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"})
		if out.Real != server(1) {
			t.Errorf("after the drift pass: %+v", out)
		}
	})
}

func TestFailuresAreRetried(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		r.backend.Fail(errors.New("map full (raise tables.flows)"))
		r.health.result(1, true, "")
		synctest.Wait()
		st, _ := r.Status(t.Context())
		if st.Fault != "map full (raise tables.flows)" || st.Faults != 1 {
			t.Errorf("status: fault %q, %d", st.Fault, st.Faults)
		}
		time.Sleep(time.Minute)
		st, _ = r.Status(t.Context())
		// 0.1, 0.2 ... 6.4, 10 s apart, and the drift passes
		if st.Faults < 10 || st.Faults > 30 {
			t.Errorf("%d attempts in a minute", st.Faults)
		}
		r.backend.Fail(nil)
		time.Sleep(driftInterval)
		r.want("after the trouble", "1*1")
		if st, _ = r.Status(t.Context()); st.Fault != "" {
			t.Errorf("fault still shown: %s", st.Fault)
		}
	})
}

func TestFirstRetryIsSoon(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		r.backend.Fail(errors.New("busy"))
		r.health.result(1, true, "")
		synctest.Wait()
		r.backend.Fail(nil)
		time.Sleep(retryFirst)
		r.want("after the first retry", "1*1")
	})
}

func TestNeighbourChangeApplies(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		r.state()
		before := len(r.backend.Applied())
		r.neigh.changed <- struct{}{}
		synctest.Wait()
		if n := len(r.backend.Applied()) - before; n != 1 {
			t.Errorf("%d states applied, want 1", n)
		}
	})
}

// findsMeanwhile is a backend during whose second Apply the servers are found, too
// late to be in it.
type findsMeanwhile struct {
	*lbtest.Fake
	neigh *fakeNeigh
}

func (f findsMeanwhile) Apply(ctx context.Context, s lb.State) error {
	err := f.Fake.Apply(ctx, s)
	if len(f.Applied()) == 2 {
		f.neigh.hush(false)
		f.neigh.changed <- struct{}{}
		time.Sleep(100 * time.Millisecond) // then the next turn has to wait
	}
	return err
}

// Ready means that what the data path holds has the servers that were found: the
// first packets go to all of them.
func TestReadyIsAppliedWithWhatWasFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, configOf(service("web", 1, 1)))
		r.neigh.hush(true)
		r.opt.Backend = findsMeanwhile{r.backend, r.neigh}
		r.runDuring(t, func() {
			if n := len(r.backend.Applied()); n < 3 {
				t.Errorf("ready after %d states, but the servers were found while the second one was applied", n)
			}
		})
	})
}

func TestVRRPRoles(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.VRRP = []vrrp.Instance{{Name: "VI_1", VRID: 51, Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		if s := r.state(); !s.StandbyVIPs()[vip] || !slices.ContainsFunc(s.VIPs, func(v lb.VIP) bool { return v.Leased }) {
			t.Errorf("before the first role: standby %v, leases %v", s.StandbyVIPs(), s.VIPs)
		}
		if id, ok := r.Lease("VI_1"); id != 0 || !ok {
			t.Errorf("lease %d, %v", id, ok)
		}
		if _, ok := r.Lease("VI_2"); ok {
			t.Error("lease of an unknown instance")
		}
		if len(r.vips.now()) != 0 {
			t.Errorf("VRRP's address held: %v", r.vips.now())
		}
		if err := r.Activate("VI_1"); err != nil {
			t.Fatal(err)
		}
		if s := r.state(); len(s.StandbyVIPs()) != 0 {
			t.Errorf("active: standby %v", s.StandbyVIPs())
		}
		r.vrrp.become("VI_1", vrrp.Master)
		r.notified("vrrp VI_1 MASTER: because")
		r.health.result(1, true, "")
		synctest.Wait()
		if got := strings.Join(r.vrrp.tracked, ", "); got != "web down, web up" {
			t.Errorf("tracked: %s", got)
		}
		if err := r.Deactivate("VI_1"); err != nil {
			t.Fatal(err)
		}
		if s := r.state(); !s.StandbyVIPs()[vip] {
			t.Errorf("inert: standby %v", s.StandbyVIPs())
		}
		close(r.vrrp.events) // the router ended first
		r.health.result(1, false, "")
		r.want("the loop goes on", "")
	})
}

// Parts that ended first (their channels are closed) do not keep the loop
// busy, nor from ending.
func TestClosedChannels(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		close(r.health.events)
		close(r.neigh.changed)
		close(r.vrrp.events)
		if _, err := r.Drain(t.Context(), "web", "10.0.0.11", DrainOptions{}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// An instance does not become active by an Apply that failed: the router
// would put the VIPs up.
func TestActivateFails(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.VRRP = []vrrp.Instance{{Name: "VI_1", Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		boom := errors.New("boom")
		r.backend.Fail(boom)
		if err := r.Activate("VI_1"); !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
		r.backend.Fail(nil)
		time.Sleep(driftInterval)
		if s := r.state(); !s.StandbyVIPs()[vip] {
			t.Errorf("standby %v", s.StandbyVIPs())
		}
	})
}

// switcher is a backend that changes roles without an Apply.
type switcher struct {
	*lbtest.Fake
	switched [][]lb.VIP
}

func (s *switcher) Switch(vips []lb.VIP) error {
	s.switched = append(s.switched, vips)
	return nil
}

// A takeover does not wait for the plan, unless the backend lags behind it.
func TestRolesChangeAtOnce(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.VRRP = []vrrp.Instance{{Name: "VI_1", Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}}}
	boom := errors.New("boom")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		s := &switcher{Fake: r.backend}
		r.opt.Backend = s
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = r.Director.Run(ctx) }()
		<-r.Ready()
		r.backend.Fail(boom)
		if err := r.Activate("VI_1"); err != nil {
			t.Errorf("activate: %v", err)
		}
		if len(s.switched) != 1 || s.switched[0][0].Standby {
			t.Errorf("switched to %+v", s.switched)
		}
		synctest.Wait() // the plan has failed by now
		if err := r.Deactivate("VI_1"); !errors.Is(err, boom) {
			t.Errorf("deactivate with a backend that lags: %v", err)
		}
		r.backend.Fail(nil)
		time.Sleep(driftInterval)
		if got := r.state().StandbyVIPs(); !got[vip] {
			t.Errorf("standby %v", got)
		}
		cancel()
		synctest.Wait()
	})
}

// Fifty instances that take over at once cost two plans, not fifty.
func TestTakeoversCoalesce(t *testing.T) {
	cfg := configOf(service("web", 1))
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.state()
		before := len(r.backend.Applied())
		var wg sync.WaitGroup
		_ = r.do(t.Context(), func(context.Context) error {
			for i := range 50 {
				wg.Go(func() { _ = r.Activate(string(rune('a' + i))) })
			}
			time.Sleep(time.Millisecond)
			return nil
		})
		wg.Wait()
		if n := len(r.backend.Applied()) - before; n > 2 {
			t.Errorf("%d states applied", n)
		}
	})
}

// The VIPs wait for the servers to be found, but not for long.
func TestAddressesWaitForServers(t *testing.T) {
	for _, answers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			cfg := configOf(service("web", 1))
			r := newRig(t, cfg)
			r.neigh.silent = true
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { _ = r.Director.Run(ctx) }()
			<-r.Applied()
			began := time.Now()
			if err := r.Activate("A"); err != nil || time.Since(began) != 0 {
				t.Errorf("a takeover waited %v, error %v", time.Since(began), err)
			}
			time.Sleep(settleTime / 2)
			synctest.Wait()
			if r.vips.now() != nil {
				t.Error("held before the server was found")
			}
			want := settleTime
			if answers {
				want = settleTime / 2
				r.neigh.mu.Lock()
				r.neigh.silent = false
				r.neigh.mu.Unlock()
				r.neigh.changed <- struct{}{}
			}
			<-r.Ready()
			if got := time.Since(began); got != want || len(r.vips.now()) != 1 {
				t.Errorf("answers %v: ready after %v, want %v; held %v", answers, got, want, r.vips.now())
			}
		})
	}
}

func TestAddressesAreHeldAndWatched(t *testing.T) {
	svc := service("web", 1, 1)
	svc.Sorry = sorryIP
	cfg := configOf(svc)
	cfg.Peers = []netip.Addr{server(9), server(2)}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		synctest.Wait()
		if !slices.Equal(r.vips.now(), []netip.Addr{vip}) || !slices.Equal(r.neigh.avoids, []netip.Addr{vip}) {
			t.Errorf("held %v, avoided %v", r.vips.now(), r.neigh.avoids)
		}
		if !slices.Equal(r.neigh.reals, []netip.Addr{server(1), server(2), sorryIP, server(9)}) {
			t.Errorf("watched %v", r.neigh.reals)
		}
		r.vips.mu.Lock()
		r.vips.held = nil // as if somebody took it off
		r.vips.mu.Unlock()
		time.Sleep(driftInterval)
		synctest.Wait()
		if len(r.vips.now()) != 1 {
			t.Error("the drift pass did not put the VIP back")
		}
	})
}

func TestStartFails(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name   string
		spoil  func(*rig, *config.Config)
		expect string
	}{
		{"backend", func(r *rig, _ *config.Config) { r.backend.Fail(boom) }, "boom"},
		{"addresses", func(r *rig, _ *config.Config) { r.vips.err = boom }, "boom"},
		{"vrrp", func(r *rig, c *config.Config) { r.vrrp.fail, c.VRRP = "A", []vrrp.Instance{{Name: "A"}} }, "vrrp: no such interface"},
		{"no router", func(r *rig, c *config.Config) { r.opt.VRRP, c.VRRP = nil, []vrrp.Instance{{Name: "A"}} }, "vrrp: no router runs here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := configOf(service("web", 1))
				r := newRig(t, cfg)
				c.spoil(r, cfg)
				if err := r.Director.Run(t.Context()); err == nil || err.Error() != c.expect {
					t.Errorf("got %v, want %s", err, c.expect)
				}
				select {
				case <-r.Ready():
					t.Error("ready")
				default:
				}
			})
		})
	}
}

func TestStatus(t *testing.T) {
	svc := service("web", 1, 1, 1)
	svc.Sorry = sorryIP
	cfg := configOf(svc)
	cfg.Warnings = []string{"careful"}
	lone := netip.MustParsePrefix("10.0.0.200/24") // no service listens on it
	cfg.VRRP = []vrrp.Instance{{Name: "VI_1", VRID: 51, Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24), lone}}}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		st, err := r.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s := st.Services[0]; s.State != "sorry" || s.Reason != "weight 0 up, quorum needs 1" || s.Listeners[0] != "10.0.0.100:80/tcp" {
			t.Errorf("at the start: %+v", s)
		}
		r.vrrp.become("VI_1", vrrp.Master)
		_ = r.Activate("VI_1")
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.health.result(3, false, "refused")
		r.backend.Unresolve(server(2), "no MAC: 10.0.0.12 does not answer ARP on eth0")
		synctest.Wait()
		if st, err = r.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		var states []string
		for _, real := range st.Services[0].Reals {
			states = append(states, real.State+": "+real.Reason)
		}
		want := "up: ; unresolved: no MAC: 10.0.0.12 does not answer ARP on eth0; down: refused"
		if got := strings.Join(states, "; "); got != want || st.Services[0].State != "up" {
			t.Errorf("service %s, reals\n got %s\nwant %s", st.Services[0].State, got, want)
		}
		if st.Backend != "fake" || st.Version != "test" || len(st.Warnings) != 1 || !st.VIPs[0].Held || st.VIPs[0].Instance != "VI_1" {
			t.Errorf("%+v", st)
		}
		if len(st.VIPs) != 2 || st.VIPs[1] != (VIPStatus{Addr: lone.Addr(), Held: true, Instance: "VI_1"}) {
			t.Errorf("VIPs: %+v", st.VIPs)
		}
		r.warnings.Put(warnings.Warning{Kind: VIPTaken, Subject: "VIP " + lone.Addr().String() + " on eth0", Text: "withheld"})
		if withheld, err := r.Status(t.Context()); err != nil || withheld.VIPs[1] != (VIPStatus{Addr: lone.Addr(), Withheld: true, Instance: "VI_1"}) || !withheld.VIPs[0].Held {
			t.Errorf("VIPs, one of which another host has: %+v, %v", withheld.VIPs, err)
		}
		if v := st.VRRP[0]; v.Role != "MASTER" || v.VRID != 51 || v.Why != "because" || len(v.Peers) != 1 {
			t.Errorf("%+v", v)
		}
	})
}

func TestRealStates(t *testing.T) {
	real := func(up, drained bool, weight uint16) RealPlan {
		p := RealPlan{Up: up, Drained: drained}
		p.Weight = weight
		return p
	}
	for _, c := range []struct {
		plan RealPlan
		seen lb.ObservedReal
		want string
	}{
		{real(true, false, 1), lb.ObservedReal{Usable: true}, "up"},
		{real(false, false, 1), lb.ObservedReal{}, "down"},
		{real(false, false, 0), lb.ObservedReal{Reason: "weight 0"}, "down"},
		{real(true, true, 0), lb.ObservedReal{Reason: "weight 0"}, "drained"},
		{real(true, false, 0), lb.ObservedReal{Reason: "weight 0"}, "quiesced"},
		{real(true, false, 0), lb.ObservedReal{}, "quiesced"},
		{real(true, false, 1), lb.ObservedReal{Reason: "silent"}, "unresolved"},
	} {
		if got := realStatus(c.plan, c.seen, true).State; got != c.want {
			t.Errorf("%+v seen as %+v: %s, want %s", c.plan, c.seen, got, c.want)
		}
	}
}

func TestList(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	cfg.Services[0].Checks = [][]health.Spec{nil, nil}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.state()
		time.Sleep(lb.RatePeriod + time.Millisecond) // the first sample is over
		for port := range uint16(100) {
			r.backend.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(server(9), 1024+port), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"})
		}
		time.Sleep(lb.RatePeriod)
		l, err := r.List(t.Context(), Want{Connections: true, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Services) != 1 || len(l.Observed.Services) != 1 || l.Stats.Services[0].Conns != 100 ||
			len(l.Connections) != 7 || l.Timeouts.TCP != lb.DefaultTCPTimeout {
			t.Errorf("%+v", l)
		}
		if len(l.Rates) != 1 || l.Rates[0].CPS != 12 { // a quarter of 100 in 2 s
			t.Errorf("rates: %+v", l.Rates)
		}
		if l, _ := r.List(t.Context(), Want{}); l.Connections != nil {
			t.Error("connections without having been asked for")
		}
	})
}

func TestExplain(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.Services[0].Checks = nil
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		e, err := r.Explain(t.Context(), lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(server(9), 1024), Dst: netip.AddrPortFrom(vip, 80)})
		if err != nil || e.Service != "web" || e.Real != "10.0.0.11" {
			t.Errorf("%+v, %v", e, err)
		}
	})
}
