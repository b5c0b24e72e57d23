package director

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

var compareAddrs = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}),
	cmpopts.IgnoreUnexported(Memory{}), // the VIPs again, kept to be shared
}

var (
	vip     = netip.MustParseAddr("10.0.0.100")
	sorryIP = netip.MustParseAddr("10.0.0.14")
	check   = health.Spec{Type: health.TCP}
)

// server is 10.0.0.(10+n).
func server(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)}) }

func key(n int) netip.AddrPort { return netip.AddrPortFrom(server(n), 0) }

// service has reals 1, 2, ... with these weights and a tcp check each.
func service(name string, weights ...uint16) config.Service {
	svc := config.Service{
		Service: lb.Service{
			Name: name, Scheduler: lb.RR,
			Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}},
		},
		OnDown: config.Remove, Quorum: 1,
	}
	for i, w := range weights {
		svc.Reals = append(svc.Reals, lb.Real{Addr: server(i + 1), Weight: w})
		svc.Checks = append(svc.Checks, []health.Spec{check})
	}
	return svc
}

func configOf(services ...config.Service) *config.Config {
	return &config.Config{Interfaces: []string{"eth0"}, Services: services, ExpireNodestConn: true}
}

// results is a snapshot: '+' up, '-' down, '?' no result, by real.
func results(svc config.Service, marks string) map[health.Target]health.Status {
	m := map[health.Target]health.Status{}
	for i, c := range marks {
		for _, t := range targets(&svc, i, false) {
			switch c {
			case '+':
				m[t] = health.Status{Known: true, Up: true}
			case '-':
				m[t] = health.Status{Known: true, Reason: "connect: refused (failed 3 times)"}
			}
		}
	}
	return m
}

// held writes the reals of the first service as "1*3 2*0 3*2".
func held(s lb.State) string {
	var words []string
	for _, r := range s.Services[0].Reals {
		words = append(words, fmt.Sprintf("%d*%d", r.Addr.As4()[3]-10, r.Weight))
	}
	return strings.Join(words, " ")
}

func TestPlanHealth(t *testing.T) {
	for _, c := range []struct {
		name    string
		results string
		change  func(*config.Service)
		up      string // memory: reals that were up before
		want    string
		state   string // of the service: "up" or "down"
	}{
		{"all up", "+++", nil, "", "1*3 2*1 3*2", "up"},
		{"nothing known: down", "???", nil, "", "", "down"},
		{"first pass brings one in", "?+?", nil, "", "2*1", "up"},
		{"down is removed, order stays", "+-+", nil, "", "1*3 3*2", "up"},
		{"down is quiesced", "+-+", func(s *config.Service) { s.OnDown = config.Quiesce }, "", "1*3 2*0 3*2", "up"},
		{"without checks: up", "???", func(s *config.Service) { s.Checks = nil }, "", "1*3 2*1 3*2", "up"},
		{"one without checks", "?-?", func(s *config.Service) { s.Checks[2] = nil }, "", "3*2", "up"},
		{"changed check leaves it up", "???", nil, "13", "1*3 3*2", "up"},
		{"a result ends that", "-??", nil, "13", "3*2", "up"},
		{"sorry server, all down", "---", func(s *config.Service) { s.Sorry = sorryIP }, "", "", "down"},
		{"sorry server, quiesced", "---", func(s *config.Service) { s.Sorry, s.OnDown = sorryIP, config.Quiesce }, "", "1*0 2*0 3*0", "down"},
		{"below quorum, no sorry server: the rest serves", "+--", func(s *config.Service) { s.Quorum = 4 }, "", "1*3", "down"},
		{"below quorum, sorry server", "+--", func(s *config.Service) { s.Quorum, s.Sorry = 4, sorryIP }, "", "", "down"},
		{"below quorum, sorry server, quiesce", "+--",
			func(s *config.Service) { s.Quorum, s.Sorry, s.OnDown = 4, sorryIP, config.Quiesce }, "", "1*0 2*0 3*0", "down"},
		{"below quorum, weight 0 keeps its connections", "+--",
			func(s *config.Service) { s.Sorry, s.Reals[0].Weight = sorryIP, 0 }, "", "1*0", "down"},
		{"exactly at quorum", "+--", func(s *config.Service) { s.Quorum, s.Sorry = 3, sorryIP }, "", "1*3", "up"},
		{"quorum 0 still needs one", "---", func(s *config.Service) { s.Quorum = 0 }, "", "", "down"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := service("web", 3, 1, 2)
			if c.change != nil {
				c.change(&svc)
			}
			in := Input{Config: configOf(svc), Health: results(svc, c.results), Memory: Memory{Up: map[string]Verdicts{}}}
			for _, n := range c.up {
				in.Memory.Up["web"] = append(in.Memory.Up["web"], Verdict{key(int(n - '0')), true})
			}
			out := Plan(in)
			if got := held(out.State); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := upDown(out.Services[0].Quorum); got != c.state {
				t.Errorf("service %s (%s), want %s", got, out.Services[0].Reason, c.state)
			}
			if s := out.State.Services[0]; len(s.Reals)+len(s.Absent) != len(svc.Reals) {
				t.Errorf("%d reals and %d absent ones of %d", len(s.Reals), len(s.Absent), len(svc.Reals))
			}
			if out.State.Services[0].Sorry != svc.Sorry {
				t.Error("the sorry server must stay in the state")
			}
		})
	}
}

// What a check says of the weight: instead of the file's, or in addition to
// it; never more than a weight can be, and nothing for who is taken out.
func TestPlanWeightByCheck(t *testing.T) {
	for name, c := range map[string]struct {
		configured uint16
		status     health.Status
		want       uint16
	}{
		"fixed":                {10, health.Status{Weight: health.Weight{IsFixed: true, Value: 3}}, 3},
		"fixed at nothing":     {10, health.Status{Weight: health.Weight{IsFixed: true}}, 0},
		"added":                {10, health.Status{Weight: health.Weight{Value: 5}}, 15},
		"taken off":            {10, health.Status{Weight: health.Weight{Value: -4}}, 6},
		"taken off altogether": {10, health.Status{Weight: health.Weight{Value: -40}}, 0},
		"too much":             {10, health.Status{Weight: health.Weight{Value: 70000}}, 65535},
		"quiesced by the file": {0, health.Status{Weight: health.Weight{IsFixed: true, Value: 3}}, 0},
		"nothing said":         {10, health.Status{}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service("web", c.configured)
			c.status.Known, c.status.Up = true, true
			in := Input{Config: configOf(svc), Health: map[health.Target]health.Status{targets(&svc, 0, false)[0]: c.status}}
			if got := Plan(in).Services[0].Reals[0]; got.Weight != c.want || got.Configured != c.configured || !got.Up {
				t.Errorf("%+v, want weight %d", got, c.want)
			}
		})
	}
}

func TestPlanReasons(t *testing.T) {
	svc := service("web", 1, 1, 1)
	svc.Checks[0] = append(svc.Checks[0], health.Spec{Type: health.TCP, Port: 8080})
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	h := map[health.Target]health.Status{}
	ts := targets(&svc, 0, false)
	h[ts[0]] = health.Status{Known: true, Up: true, Since: late}
	h[ts[1]] = health.Status{Known: true, Reason: "tcp 8080: refused (failed 3 times)", Since: early, Flapping: true}
	h[targets(&svc, 1, false)[0]] = health.Status{Known: true, Up: true, Since: early}
	out := Plan(Input{Config: configOf(svc), Health: h})
	want := []RealPlan{
		{Addr: server(1), Configured: 1, Weight: 1, Checks: 2, Since: early, Reason: "tcp 8080: refused (failed 3 times)", Flapping: true},
		{Addr: server(2), Configured: 1, Weight: 1, Checks: 1, Up: true, Since: early},
		{Addr: server(3), Configured: 1, Weight: 1, Checks: 1, Unchecked: true, Reason: "not checked yet"},
	}
	if d := cmp.Diff(want, out.Services[0].Reals, compareAddrs); d != "" {
		t.Error(d)
	}
}

// TestPlanQuorumHysteresis walks a service of ten reals of weight 1, quorum
// 5, hysteresis 2, through changing numbers of reals that are up.
func TestPlanQuorumHysteresis(t *testing.T) {
	svc := service("web", slices.Repeat([]uint16{1}, 10)...)
	svc.Quorum, svc.Hysteresis, svc.Sorry = 5, 2, sorryIP
	var mem Memory
	for i, step := range []struct {
		up   int
		want bool
	}{
		{0, false}, {4, false}, {5, true}, // first time: quorum is enough
		{4, true}, {3, true}, {2, false}, // lost below 5 - 2
		{5, false}, {6, false}, {7, true}, // regained at 5 + 2
		{3, true}, {0, false}, {10, true},
	} {
		marks := strings.Repeat("+", step.up) + strings.Repeat("-", 10-step.up)
		out := Plan(Input{Config: configOf(svc), Health: results(svc, marks), Memory: mem})
		if got := out.Services[0].Quorum; got != step.want {
			t.Errorf("step %d: %d up: quorum %v, want %v", i, step.up, got, step.want)
		}
		mem = out.Memory
	}
}

func TestPlanOverrides(t *testing.T) {
	svc := service("web", 1, 1, 1)
	var o Overrides
	o = o.edit("web", key(1), func(v *Override) { w := uint16(7); v.Weight = &w })
	o = o.edit("web", key(2), func(v *Override) { v.Drain = true })
	o = o.edit("web", key(9), func(v *Override) { v.Drain = true })
	o = o.edit("mail", key(1), func(v *Override) { v.Drain = true })
	plan := func(marks string, o Overrides) Planned {
		return Plan(Input{Config: configOf(svc), Health: results(svc, marks), Overrides: o})
	}
	out := plan("+++", o)
	if got := held(out.State); got != "1*7 2*0 3*1" {
		t.Errorf("got %s", got)
	}
	if r := out.Services[0].Reals; !r[0].Override || r[0].Configured != 1 || !r[1].Drained || r[2].Override || r[2].Drained {
		t.Errorf("marks of the overrides: %+v", r)
	}
	if len(out.Stale) != 2 || out.Stale[0].Service != "mail" || out.Stale[1].Real != key(9) {
		t.Errorf("stale: %+v", out.Stale)
	}
	if got := held(plan("--+", o).State); got != "3*1" {
		t.Errorf("health wins over an operator's weight: got %s", got)
	}
	o = o.edit("web", key(1), func(v *Override) { v.Drain = true })
	if got := held(plan("+++", o).State); got != "1*0 2*0 3*1" {
		t.Errorf("drain wins over weight: got %s", got)
	}
	o = o.edit("web", key(1), func(v *Override) { v.Drain = false })
	if got := held(plan("+++", o).State); got != "1*7 2*0 3*1" {
		t.Errorf("the weight is back after the drain: got %s", got)
	}
	svc.Sorry = sorryIP
	for n := 1; n <= 3; n++ {
		o = o.edit("web", key(n), func(v *Override) { v.Drain = true })
	}
	out = plan("+++", o)
	if got := held(out.State); got != "1*0 2*0 3*0" || !out.Services[0].Sorry {
		t.Errorf("all drained: got %s, sorry %v", got, out.Services[0].Sorry)
	}
}

func TestPlanRoles(t *testing.T) {
	cfg := configOf(service("web", 1))
	instance := func(name, addr string) vrrp.Instance {
		return vrrp.Instance{Name: name, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)}}
	}
	cfg.VRRP = []vrrp.Instance{instance("A", "10.0.0.100/24"), instance("B", "10.0.0.101/24"), instance("C", "10.0.0.102/24")}
	out := Plan(Input{Config: cfg, Active: map[string]bool{"A": true, "B": false}})
	want := []lb.VIP{
		{Addr: vip, Owner: "A", Leased: true, Lease: 0},
		{Addr: netip.MustParseAddr("10.0.0.101"), Owner: "B", Standby: true, Leased: true, Lease: 1},
		{Addr: netip.MustParseAddr("10.0.0.102"), Owner: "C", Standby: true, Leased: true, Lease: 2},
	}
	if d := cmp.Diff(want, out.State.VIPs, compareAddrs); d != "" {
		t.Error(d)
	}
	again := Plan(Input{Config: cfg, Active: map[string]bool{"A": true}, Memory: out.Memory})
	if &again.State.VIPs[0] != &out.State.VIPs[0] {
		t.Error("VIPs that have not changed are copied for every plan")
	}
	moved := Plan(Input{Config: cfg, Active: map[string]bool{"B": true}, Memory: out.Memory})
	if got := moved.State.StandbyVIPs(); got[want[1].Addr] || !got[vip] || out.State.StandbyVIPs()[vip] {
		t.Errorf("after a change of roles: %+v, and the plan before now says %+v", moved.State.VIPs, out.State.VIPs)
	}

	// A reload that takes A out and puts D and E in renumbers nobody.
	cfg2 := configOf(service("web", 1))
	cfg2.VRRP = []vrrp.Instance{instance("D", "10.0.0.103/24"), cfg.VRRP[2], cfg.VRRP[1], instance("E", "10.0.0.104/24")}
	ids := Plan(Input{Config: cfg2, Memory: out.Memory}).Memory.Leases
	if d := cmp.Diff(map[string]uint32{"B": 1, "C": 2, "D": 0, "E": 3}, ids); d != "" {
		t.Error(d)
	}
}

func TestPlanCopiesGlobals(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.Timeouts = lb.Timeouts{TCP: time.Minute}
	cfg.SloppyTCP, cfg.ExpireQuiescentTempl = true, true
	cfg.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	cfg.Allow = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	cfg.Peers = []netip.Addr{server(5)}
	cfg.VRRP = []vrrp.Instance{{Name: "VI_1", UnicastPeers: []netip.Addr{server(6), server(5)}}}
	got := Plan(Input{Config: cfg}).State
	got.Services, got.VIPs = nil, nil
	want := lb.State{
		ExpireNodestConn: true,
		Timeouts:         cfg.Timeouts, SloppyTCP: true, ExpireQuiescentTempl: true,
		Deny: cfg.Deny, Allow: cfg.Allow, Peers: []netip.Addr{server(5), server(6)},
	}
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Error(d)
	}
	cfg.ExpireNodestConn = false
	if Plan(Input{Config: cfg}).State.ExpireNodestConn {
		t.Error("expire_nodest_conn: false must keep the connections of removed reals")
	}
}

// TestPlanProperties holds what is true for any health, any weights and any
// overrides.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 8).Draw(t, "reals")
		svc := service("web", rapid.SliceOfN(rapid.Uint16Range(0, 5), n, n).Draw(t, "weights")...)
		svc.Quorum = rapid.IntRange(0, 10).Draw(t, "quorum")
		svc.Hysteresis = rapid.IntRange(0, 3).Draw(t, "hysteresis")
		svc.OnDown = rapid.SampledFrom([]config.OnDown{config.Remove, config.Quiesce}).Draw(t, "on_down")
		if rapid.Bool().Draw(t, "sorry") {
			svc.Sorry = sorryIP
		}
		var o Overrides
		for i := range n {
			if rapid.IntRange(0, 3).Draw(t, "drained") == 0 {
				o = o.edit("web", key(i+1), func(v *Override) { v.Drain = true })
			}
		}
		cfg := configOf(svc)
		before := lb.State{ExpireNodestConn: true, Services: []lb.Service{cfg.Services[0].Service}}.Clone()
		marks := rapid.SliceOfN(rapid.SampledFrom([]rune("+-?")), n, n).Draw(t, "health")
		in := Input{Config: cfg, Health: results(svc, string(marks)), Overrides: o}
		out := Plan(in)

		if d := cmp.Diff(out, Plan(in), compareAddrs); d != "" {
			t.Fatalf("equal inputs, different plans: %s", d)
		}
		if d := cmp.Diff(before, lb.State{ExpireNodestConn: true, Services: []lb.Service{cfg.Services[0].Service}}.Clone(), compareAddrs); d != "" {
			t.Fatalf("the configuration was changed: %s", d)
		}
		last := -1
		for _, r := range out.State.Services[0].Reals {
			i := slices.IndexFunc(svc.Reals, r.Same)
			if i <= last {
				t.Fatalf("order: %s", held(out.State))
			}
			last = i
			rp := out.Services[0].Reals[i]
			if r.Weight > 0 && (!rp.Up || rp.Drained || marks[i] != '+') {
				t.Fatalf("real %d gets traffic: %+v", i+1, rp)
			}
			if r.Weight > 0 && out.Services[0].Sorry {
				t.Fatal("real and sorry server at the same time")
			}
		}
		for i, rp := range out.Services[0].Reals {
			if !rp.Up && rp.Reason == "" {
				t.Fatalf("real %d is down without a reason", i+1)
			}
		}
	})
}
