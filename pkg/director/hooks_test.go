package director

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
)

const hooksConfig = `
interface: eth0
services:
  - name: web
    listen: ["192.0.2.100:80/tcp"]
    check: {type: tcp, via: real}
    hooks: {quorum_up: [/up], quorum_down: [[/down, "1"], [/down, "2"]], real_up: [/real, up], real_down: [/real, down], at_stop: true}
    reals:
      - {address: 192.0.2.11, on_down: quiesce}
      - {address: 192.0.2.12, hooks: {down: [/own, down]}}
`

// planned makes a plan in which the reals named are up.
func planned(t *testing.T, cfg *config.Config, before Planned, up ...string) Planned {
	t.Helper()
	status := map[health.Target]health.Status{}
	for _, target := range Targets(cfg, false) {
		for _, a := range up {
			if target.Real == netip.MustParseAddr(a) {
				status[target] = health.Status{Known: true, Up: true}
			}
		}
		if _, ok := status[target]; !ok {
			status[target] = health.Status{Known: true}
		}
	}
	return Plan(Input{Config: cfg, Health: status, Memory: before.Memory})
}

func TestEventsCarryTheirHooks(t *testing.T) {
	cfg, err := config.Parse("lvx.yaml", []byte(hooksConfig))
	if err != nil {
		t.Fatal(err)
	}
	commands := func(before, after Planned) map[string][][]string {
		all := map[string][][]string{}
		for _, e := range listChanges(before, after, time.Now()) {
			all[e.Name+" "+e.New] = e.Commands
		}
		return all
	}
	none := planned(t, cfg, Planned{})
	both := planned(t, cfg, none, "192.0.2.11", "192.0.2.12")
	if diff := cmp.Diff(map[string][][]string{
		"192.0.2.11:80 up": {{"/real", "up"}}, "192.0.2.12:80 up": {{"/real", "up"}}, "web up": {{"/up"}},
	}, commands(none, both)); diff != "" {
		t.Errorf("up (-want +got):\n%s", diff)
	}
	down := map[string][][]string{
		"192.0.2.11:80 down": {{"/real", "down"}}, "192.0.2.12:80 down": {{"/own", "down"}}, "web down": {{"/down", "1"}, {"/down", "2"}},
	}
	if diff := cmp.Diff(down, commands(both, planned(t, cfg, both))); diff != "" {
		t.Errorf("down (-want +got):\n%s", diff)
	}
	stops := map[string][][]string{}
	for _, e := range listStops(both, time.Now()) {
		stops[e.Name+" "+e.New] = e.Commands
	}
	if diff := cmp.Diff(down, stops); diff != "" {
		t.Errorf("at the stop (-want +got):\n%s", diff)
	}
	if es := listStops(none, time.Now()); len(es) > 0 {
		t.Errorf("at the stop with nothing up: %v", es)
	}
}

// on_down of a real wins over its service's.
func TestOnDownOfOneReal(t *testing.T) {
	cfg, err := config.Parse("lvx.yaml", []byte(hooksConfig))
	if err != nil {
		t.Fatal(err)
	}
	svc := planned(t, cfg, Planned{}).State.Services[0]
	if len(svc.Reals) != 1 || svc.Reals[0].Addr != netip.MustParseAddr("192.0.2.11") || svc.Reals[0].Weight != 0 || len(svc.Absent) != 1 {
		t.Errorf("reals %v, absent %v (want 192.0.2.11 with weight 0, the other one absent)", svc.Reals, svc.Absent)
	}
}
