package director

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

func TestReload(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.want("before", "1*1 2*1")
		r.next = configOf(service("web", 1, 5, 1))
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.want("weight changed, the new real is not checked yet", "1*1 2*5")
		r.health.result(3, true, "")
		r.want("it passed", "1*1 2*5 3*1")
		r.next = configOf(service("web", 1))
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.want("two are gone", "1*1")
	})
}

// A reload that changes a check must not take out who is up.
func TestReloadChangesCheck(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, false, "refused")
		r.want("before", "1*1")
		next := service("web", 1, 1)
		for i := range next.Checks {
			next.Checks[i] = []health.Spec{{Type: health.HTTP}}
		}
		r.next = configOf(next)
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The monitor counts from there: the real that serves goes by fall, the
		// other one has to pass first.
		for target, s := range r.health.Snapshot() {
			if serves := target.Real == server(1); s.Up != serves || s.Known != serves {
				t.Errorf("%s begins with %+v", target.Real, s)
			}
		}
		time.Sleep(time.Minute)
		r.want("as before", "1*1")
		r.health.result(1, false, "http GET /: 503")
		r.want("the new check decides", "")
	})
}

// A real that serves without a check goes by fall when it gets one.
func TestReloadAddsCheck(t *testing.T) {
	bare := service("web", 1)
	bare.Checks = nil
	inBubble(t, configOf(bare), func(t *testing.T, r *rig) {
		r.want("before", "1*1")
		r.next = configOf(service("web", 1))
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := r.health.Snapshot()
		if len(got) != 1 {
			t.Errorf("asked: %+v", got)
		}
		for _, s := range got {
			if !s.Known || !s.Up {
				t.Errorf("the new check begins with %+v", s)
			}
		}
		r.want("after", "1*1")
	})
}

// A file that is read while the daemon is about to start anew is what it starts
// with, also if that file alone would need no start.
func TestReloadBeforeTheDaemonStartsAnew(t *testing.T) {
	first := configOf(service("web", 1, 1))
	inBubble(t, first, func(t *testing.T, r *rig) {
		var renewed []*config.Config
		r.opt.Renew = func(f File) { renewed = append(renewed, f.Config) }
		second, third := configOf(service("web", 2, 1)), configOf(service("web", 3, 1))
		r.opt.Text = func() []byte { return []byte{byte(r.next.Services[0].Reals[0].Weight)} }
		second.XDPMode = config.XDPGeneric
		for _, cfg := range []*config.Config{second, third} {
			r.next = cfg
			if res, err := r.Reload(t.Context()); err != nil || !res.Renews {
				t.Fatalf("%+v, %v", res, err)
			}
		}
		if file, err := r.FileToRenew(t.Context()); err != nil || file.Config != third || !slices.Equal(file.Text, []byte{3}) || len(renewed) != 2 || renewed[1] != third {
			t.Errorf("starts anew %d times, and then the file is %p of %p with the text %v, %v", len(renewed), file.Config, third, file.Text, err)
		}
	})
}

// So is one that is read after the daemon has asked for the file to start anew with.
func TestReloadBeforeTheDaemonStartsAnewByItself(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		var renewed []*config.Config
		r.opt.Renew = func(f File) { renewed = append(renewed, f.Config) }
		if _, err := r.FileToRenew(t.Context()); err != nil {
			t.Fatal(err)
		}
		second := configOf(service("web", 2, 1))
		r.next = second
		if res, err := r.Reload(t.Context()); err != nil || !res.Renews || len(renewed) != 1 || renewed[0] != second {
			t.Errorf("%+v, starts anew with %v, %v", res, renewed, err)
		}
	})
}

// A virtual router that a reload renames is the same one: its VIP is served by the
// same lease all the time, and the old name stands for nothing any more.
func TestReloadRenamesAVirtualRouter(t *testing.T) {
	routers := func(names ...string) *config.Config {
		cfg := configOf(service("web", 1, 1))
		for i, name := range names {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(200 + i)})
			cfg.VRRP = append(cfg.VRRP, vrrp.Instance{Name: name, Interface: "eth0", VRID: uint8(51 + i), Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}})
		}
		return cfg
	}
	inBubble(t, routers("A", "B"), func(t *testing.T, r *rig) {
		if err := r.Activate("B"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the plan follows the role
		before, _ := r.Lease("B")
		seen := len(r.backend.Applied())
		r.next = routers("C", "D")
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, s := range r.backend.Applied()[seen:] {
			for _, v := range s.VIPs {
				if is := v.Owner == "D"; v.Owner != "" && v.Standby == is || is && v.Lease != before {
					t.Errorf("%+v, and the lease was %d", v, before)
				}
			}
		}
		r.next = routers("A", "B")
		r.next.VRRP[1].VRID = 99 // another one of the old name
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, v := range r.state().VIPs {
			if v.Owner == "B" && !v.Standby {
				t.Errorf("%+v of a new virtual router", v)
			}
		}
	})
}

// A VIP that a reload gives to a virtual router is never on standby while this host still
// has it: its kernel would reset the connections. Silent until the router has spoken, it
// loses none.
func TestReloadGivesAVIPToARouter(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.next = configOf(service("web", 1, 1))
		r.next.VRRP = []vrrp.Instance{
			{Name: "A", Interface: "eth0", VRID: 51, Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24)}},
			{Name: "B", Interface: "eth0", VRID: 52, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.200/24")}},
		}
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, v := range r.state().VIPs {
			if v.Standby != (v.Owner == "B") || !v.Leased {
				t.Errorf("%+v", v)
			}
		}
		if err := r.Deactivate("A"); err != nil {
			t.Fatal(err)
		}
		if !r.state().StandbyVIPs()[vip] {
			t.Error("the router is backup, and its VIP is not on standby")
		}
	})
}

func TestBadReload(t *testing.T) {
	boom := errors.New("boom")
	good := configOf(service("web", 1, 1))
	good.VRRP = []vrrp.Instance{{Name: "A", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.200/24")}}}
	change := func(f func(*config.Config)) *config.Config {
		c := configOf(service("web", 9))
		c.VRRP = good.VRRP
		f(c)
		return c
	}
	for _, c := range []struct {
		name  string
		spoil func(*rig)
		want  string
	}{
		{"file", func(r *rig) { r.loadErr = boom }, "boom"},
		{"backend", func(r *rig) { r.next = change(func(*config.Config) {}); r.backend.Fail(boom) }, "boom; and going back: boom"},
		{"addresses", func(r *rig) { r.next = change(func(*config.Config) {}); r.vips.err = boom }, "boom; and going back: boom"},
		{"vrrp", func(r *rig) {
			r.next = change(func(c *config.Config) { c.VRRP = []vrrp.Instance{{Name: "B"}} })
			r.vrrp.fail = "B"
		}, "vrrp: no such interface"},
		{"interface", func(r *rig) { r.next = change(func(c *config.Config) { c.Interfaces = []string{"eth1"} }) }, "interfaces: changed, which a reload cannot do (restart lvx)"},
		{"backend key", func(r *rig) { r.next = change(func(c *config.Config) { c.Backend = config.BackendIPVS }) }, "backend: changed, which a reload cannot do (restart lvx)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, good, func(t *testing.T, r *rig) {
				r.health.result(1, true, "")
				r.want("before", "1*1")
				c.spoil(r)
				if _, err := r.Reload(t.Context()); err == nil || err.Error() != c.want {
					t.Errorf("got %v, want %s", err, c.want)
				}
				r.backend.Fail(nil)
				r.vips.mu.Lock()
				r.vips.err = nil
				r.vips.mu.Unlock()
				time.Sleep(driftInterval)
				r.want("after", "1*1")
				if last := r.vrrp.set[len(r.vrrp.set)-1]; len(last) != 1 || last[0].Name != "A" {
					t.Errorf("vrrp runs %+v", last)
				}
				st, _ := r.Status(t.Context())
				if st.Reload.Error == "" {
					t.Error("status does not show the refused reload")
				}
				if id, ok := r.Lease("A"); !ok || id != 0 {
					t.Errorf("lease of A: %d, %v", id, ok)
				}
				r.loadErr, r.next = nil, good
				if _, err := r.Reload(t.Context()); err != nil {
					t.Errorf("a good file again: %v", err)
				}
				if st, _ = r.Status(t.Context()); st.Reload.Error != "" {
					t.Error("the old error is still shown")
				}
			})
		})
	}
}

func TestOverridesSurviveReloadAndRestart(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		if _, err := r.SetWeight(t.Context(), "web", "10.0.0.12", weight(7)); err != nil {
			t.Fatal(err)
		}
		r.want("weight", "1*1 2*7")
		if _, err := r.Drain(t.Context(), "web", "10.0.0.11", DrainOptions{}); err != nil {
			t.Fatal(err)
		}
		r.want("drain", "1*0 2*7")
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.want("after a reload", "1*0 2*7")
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.want("after a restart", "1*0 2*7")
		if _, err := r.Drain(t.Context(), "web", "10.0.0.11", DrainOptions{Undo: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.SetWeight(t.Context(), "web", "10.0.0.12", nil); err != nil {
			t.Fatal(err)
		}
		r.want("cleared", "1*1 2*1")
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		if len(r.overrides) != 0 {
			t.Errorf("came back: %v", r.overrides)
		}
	})
}

func TestOverrideOfGoneReal(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		if _, err := r.Drain(t.Context(), "web", "10.0.0.12", DrainOptions{}); err != nil {
			t.Fatal(err)
		}
		r.next = configOf(service("web", 1))
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, _ := r.Status(t.Context())
		if len(st.Stale) != 1 || st.Stale[0].Real != key(2) {
			t.Errorf("stale: %+v", st.Stale)
		}
		if _, err := r.Drain(t.Context(), "web", "10.0.0.12", DrainOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a new one for a gone real: %v", err)
		}
		if _, err := r.Drain(t.Context(), "web", "10.0.0.12", DrainOptions{Undo: true}); err != nil {
			t.Errorf("clearing it: %v", err)
		}
		if st, _ = r.Status(t.Context()); len(st.Stale) != 0 {
			t.Errorf("still there: %+v", st.Stale)
		}
	})
}

func TestOverrideErrors(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	for i, port := range []uint16{80, 81} {
		cfg.Services[0].Reals[i].Addr, cfg.Services[0].Reals[i].Port = server(1), port
	}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		for _, c := range []struct{ service, real, want string }{
			{"mail\n", "10.0.0.11", `service "mail\n": not found (there are web)`},
			{"web", "10.0.0.9", "real 10.0.0.9 of web: not found (there are 10.0.0.11:80, 10.0.0.11:81)"},
			{"web", "10.0.0.11", "real 10.0.0.11 of web: 2 of them (give ADDR:PORT: there are 10.0.0.11:80, 10.0.0.11:81)"},
			{"web", "real one\n", `real "real one\n": not an address (expected ADDR or ADDR:PORT)`},
		} {
			_, err := r.Drain(t.Context(), c.service, c.real, DrainOptions{})
			if err == nil || err.Error() != c.want {
				t.Errorf("%s %s:\n got %v\nwant %s", c.service, c.real, err, c.want)
			}
		}
		if _, err := r.Drain(t.Context(), "web", "[::ffff:10.0.0.11]:81", DrainOptions{}); err != nil {
			t.Errorf("an IPv4-mapped address: %v", err)
		}
	})
}

// The last real that takes connections is drained by force only; what cannot
// be applied at once is in force, and done by the retry.
func TestDrainLastReal(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, false, "refused")
		r.want("one is up", "1*1")
		if _, err := r.Drain(t.Context(), "web", "10.0.0.11", DrainOptions{}); !errors.Is(err, ErrLastReal) {
			t.Errorf("drained the last real: %v", err)
		}
		r.want("nothing happened", "1*1")
		down, err := r.Drain(t.Context(), "web", "10.0.0.12", DrainOptions{})
		if want := []string{"web 10.0.0.12: drained; it is down; 0 active and 0 inactive connections are left"}; err != nil || !slices.Equal(down.Did, want) {
			t.Errorf("a real that takes no connections: %+v, %v, want %q", down, err, want)
		}
		r.backend.Fail(errors.New("busy"))
		if _, err := r.Drain(t.Context(), "web", "10.0.0.11", DrainOptions{Force: true}); err == nil || err.Error() != "in force, but not applied yet: busy" {
			t.Errorf("got %v", err)
		}
		r.backend.Fail(nil)
		time.Sleep(retryFirst)
		r.want("done by the retry", "1*0")
		got, err := r.Drain(t.Context(), "web", "10.0.0.11", DrainOptions{Undo: true})
		if want := []string{"web 10.0.0.11: weight 1, as configured"}; err != nil || !slices.Equal(got.Did, want) {
			t.Errorf("%+v, %v, want %q", got, err, want)
		}
		var logged []string
		for _, e := range r.history.List(history.Filter{Kind: history.Operator}) {
			logged = append(logged, e.Subject+": "+e.Text)
		}
		if len(logged) != 3 || !strings.HasPrefix(logged[1], "10.0.0.11 of web: drained;") {
			t.Errorf("history %q", logged)
		}
	})
}

// A real that is down while clients are connected to it: they are not forgotten.
func TestDrainOfARealThatIsDown(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.want("before", "1*1 2*1")
		p := lb.Packet{Proto: lb.TCP, Src: netip.MustParseAddrPort("172.16.0.1:40000"), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"}
		home := r.backend.Send(p).Real
		r.health.result(int(home.As4()[3])-10, false, "refused")
		time.Sleep(time.Second)
		got, err := r.Drain(t.Context(), "web", home.String(), DrainOptions{})
		if want := "web " + home.String() + ": drained; it is down; 1 active and 0 inactive connections are left"; err != nil || got.Did[0] != want {
			t.Errorf("%+v, %v, want %q", got, err, want)
		}
		st, err := r.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, real := range st.Services[0].Reals {
			if real.Addr == home && real.Active != 1 {
				t.Errorf("the status has %d connections of it", real.Active)
			}
		}
	})
}

// Clients that persistence binds to a drained real are named, and let go if that
// is asked for.
func TestDrainOfPersistentClients(t *testing.T) {
	web := service("web", 1, 1)
	web.Persistence = lb.Persistence{Timeout: time.Hour}
	inBubble(t, configOf(web), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.want("before", "1*1 2*1")
		visit := func(client byte, port uint16) netip.Addr {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, client}), port)
			return r.backend.Send(lb.Packet{Proto: lb.TCP, Src: src, Dst: netip.AddrPortFrom(vip, 80), Flags: "S"}).Real
		}
		for client := range byte(20) {
			visit(client, 40000)
		}
		home := visit(0, 40000)
		got, err := r.Drain(t.Context(), "web", home.String(), DrainOptions{})
		if err != nil || !strings.Contains(got.Did[0], "persistence leads 172.16.0.") || !strings.Contains(got.Did[0], "2 more back to it") {
			t.Errorf("%+v, %v", got, err)
		}
		got, err = r.Drain(t.Context(), "web", home.String(), DrainOptions{NowPersistent: true})
		if err != nil || !strings.HasSuffix(got.Did[0], "; 10 persistent clients go elsewhere with their next connection") || strings.Contains(got.Did[0], "leads") {
			t.Errorf("%+v, %v", got, err)
		}
		for client := range byte(20) {
			if visit(client, 40001) == home {
				t.Errorf("client %d is led to the drained real", client)
			}
		}
	})
}

// Who hangs up gets no answer, but leaves no half-done change either.
func TestCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, configOf(service("web", 1)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before Run: %v", err)
		}
	})
}

// A reload that brings other servers finds them before it drops the old
// ones; it does not wait for a silent one for long, and not at all if it
// brings none.
func TestReloadMeetsNewServers(t *testing.T) {
	without := func(weights ...uint16) *config.Config {
		cfg := configOf(service("web", weights...))
		cfg.Services[0].Checks = nil
		return cfg
	}
	for name, c := range map[string]struct {
		next   *config.Config
		silent bool
		took   time.Duration
		want   string
	}{
		"found":      {without(1, 1), false, 0, "1*1 2*1"},
		"silent":     {without(1, 1), true, settleTime, "1*1 2*1"},
		"nobody new": {without(7), true, 0, "1*7"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, without(1), func(t *testing.T, r *rig) {
				r.state()
				r.neigh.mu.Lock()
				r.neigh.silent = c.silent
				r.neigh.mu.Unlock()
				r.next = c.next
				began := time.Now()
				if _, err := r.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				r.want("after", c.want)
			})
		})
	}
}

// Whoever hangs up while a reload looks for new servers leaves nobody watched
// that should not be, or the other way round, once a good file is read.
func TestReloadAfterAnInterruptedOne(t *testing.T) {
	good := configOf(service("web", 1, 1))
	good.Peers = []netip.Addr{netip.MustParseAddr("10.0.0.99")}
	inBubble(t, good, func(t *testing.T, r *rig) {
		for range 8 { // the interrupted one comes into force, or it does not
			if _, err := r.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, want := r.neigh.watched(), neighbours(good); !slices.Equal(got, want) {
				t.Fatalf("watched: %v, want %v", got, want)
			}
			r.neigh.hush(true)
			r.next = configOf(service("web", 1, 1, 1))
			ctx, cancel := context.WithTimeout(t.Context(), settleTime/2)
			_, _ = r.Reload(ctx)
			cancel()
			r.neigh.hush(false)
			r.next = good
		}
	})
}
