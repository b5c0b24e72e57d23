package vrrp

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

var (
	route1 = vips.Route{To: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("10.99.0.2")}
	route2 = vips.Route{To: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.MustParseAddr("10.99.0.2")}
	rule1  = vips.Rule{From: netip.MustParsePrefix("10.99.0.100/32"), Table: 100, Priority: 1000}
)

// wantRoutes compares the networks that a router leads to; a rule of table 100
// counts as "rule".
func wantRoutes(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			got = append(got, r.Dst.String())
		}
	}
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Table == 100 {
			got = append(got, "rule")
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("routes %q, want %q", got, want)
	}
}

// Routes and rules go with the VIPs, but those that another virtual router needs.
func TestWorkerSparesRoutingOfOthers(t *testing.T) {
	withWorker(t, func(w *worker, _ *recorder, j job) {
		j.cfg.Routing = vips.Routing{Routes: []vips.Route{route1, route2}, Rules: []vips.Rule{rule1}}
		w.doJob(j.with(1, true, nil))
		wantRoutes(t, "198.51.100.0/24", "203.0.113.0/24", "rule")
		others := vips.Routing{Routes: []vips.Route{route1}, Rules: []vips.Rule{rule1}}
		w.doJob(j.with(2, true, func(j *job) { j.cfg.Routing, j.keepRouting = vips.Routing{}, others }))
		wantRoutes(t, "198.51.100.0/24", "rule")
		w.doJob(j.with(3, true, nil))
		w.doJob(j.with(4, false, func(j *job) { j.keepRouting = others }))
		wantRoutes(t, "198.51.100.0/24", "rule")
		w.doJob(j.with(5, false, nil))
		wantRoutes(t)
	})
}

// What the kernel has flushed, or would not take at first, is put there when
// the worker is asked to, and the answer says what is missing.
func TestWorkerRepairsRouting(t *testing.T) {
	withWorker(t, func(w *worker, r *recorder, j job) {
		var answers []string
		w.routed = func(err error) {
			text := ""
			if err != nil {
				text = err.Error()
			}
			answers = append(answers, text)
		}
		askAndRun := func() {
			w.askRouting()
			w.close()
			w.run()
		}
		askAndRun()
		wantRoutes(t) // there are no VIPs that they could go with
		far := vips.Route{To: route2.To, Via: netip.MustParseAddr("10.98.0.1")}
		j.cfg.Routing = vips.Routing{Routes: []vips.Route{route1, far}}
		w.doJob(j.with(1, true, nil))
		wantRoutes(t, "198.51.100.0/24")
		if _, err := vips.Add(r.index, prefixes("10.98.0.2/24")); err != nil {
			t.Fatal(err)
		}
		if err := (vips.Routing{Routes: []vips.Route{route1}}).Remove(); err != nil {
			t.Fatal(err)
		}
		askAndRun()
		wantRoutes(t, "198.51.100.0/24", "203.0.113.0/24")
		if len(answers) != 2 || !strings.Contains(answers[0], "add route 203.0.113.0/24: network is unreachable") || answers[1] != "" {
			t.Errorf("answers %q", answers)
		}
	})
}

// The plan asks an idle master with routes for them, and nobody else.
func TestPlanAsksForRouting(t *testing.T) {
	for name, c := range map[string]struct {
		routes []vips.Route
		role   Role
		want   bool
	}{
		"master":         {[]vips.Route{route1}, Master, true},
		"backup":         {[]vips.Route{route1}, Backup, false},
		"without routes": {nil, Master, false},
	} {
		l, v, _ := deaf(t, sample(func(i *Instance) { i.Routing.Routes = c.routes }))
		v.m.role, v.m.active = c.role, c.role == Master
		l.links = links{"eth0": {index: 1, up: true, addrs: []netip.Prefix{netip.PrefixFrom(addrB, 24)}}}
		runs := v.worker
		v.worker = newWorker(l.opts, nil) // nobody runs it
		l.updateRouter(v, item{cfg: v.cfg, holding: true}, false, time.Now(), time.Now())
		if v.worker.repair != c.want {
			t.Errorf("%s: asked %v", name, v.worker.repair)
		}
		v.worker = runs
	}
}

// What another master has counts, what a backup or one that leaves has does not.
func TestRoutingOfOthers(t *testing.T) {
	l, v, _ := deaf(t, sample(nil))
	add := func(role Role, leaving bool, r vips.Route) {
		o := &vrouter{leaving: leaving, cfg: sample(func(i *Instance) { i.Routing.Routes = []vips.Route{r} })}
		o.m = NewMachine(o.cfg)
		o.m.role = role
		l.routers = append(l.routers, o)
	}
	add(Master, false, route1)
	add(Backup, false, route2)
	add(Master, true, route2)
	if got := l.routingOfOthers(v); !slices.Equal(got.Routes, []vips.Route{route1}) || len(got.Rules) != 0 {
		t.Errorf("got %+v", got)
	}
}

// Routes that are not as wanted are a warning of the instance, beside others,
// until they are.
func TestRoutingWarning(t *testing.T) {
	l, v, notes := deaf(t, sample(nil))
	r := NewRouter(Options{})
	l.shown = &r.shown
	warning := func() string {
		l.publishRouters()
		return r.Status()[0].Warning
	}
	trouble := errors.Join(errors.New("add route a: no"), errors.New("add rule b: no"))
	for range 3 {
		l.finishRouting(v, trouble)
	}
	const want = "routes or rules are not as wanted: add route a: no; add rule b: no"
	if got := warning(); got != want {
		t.Errorf("warning %q", got)
	}
	if len(notes) != 1 {
		t.Errorf("%d lines in the log, want 1", len(notes))
	}
	v.setWarning("trouble", time.Now().Add(minWarning))
	if got := warning(); got != "trouble; "+want {
		t.Errorf("warning %q", got)
	}
	l.finishRouting(v, nil)
	if got := warning(); got != "trouble" {
		t.Errorf("warning %q", got)
	}
}
