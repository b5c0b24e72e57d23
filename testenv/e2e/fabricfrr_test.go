package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

const fabricFRR = `
router bgp 65000
 bgp router-id 172.25.0.1
 no bgp ebgp-requires-policy
 bgp bestpath as-path multipath-relax
 neighbor directors peer-group
 neighbor directors remote-as 65010
 neighbor directors timers 3 9
 neighbor directors timers connect 1
 neighbor directors bfd 3 100 100
%s address-family ipv4 unicast
  neighbor directors route-map nothing out
  maximum-paths 8
 exit-address-family
route-map nothing deny 10
`

// startFRR runs FRR on the router.
func (f *fabric) startFRR() {
	f.t.Helper()
	peers := ""
	for _, d := range fabricDirectors {
		peers += fmt.Sprintf(" neighbor %s peer-group directors\n", f.address(d))
	}
	startFRR(f.t, f.router, fmt.Sprintf(fabricFRR, peers))
}

// startFRR runs FRR's daemons on a host, with a place of their own, which it
// returns. They work as FRR's user.
func startFRR(t *testing.T, h *testenv.Host, bgpd string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lvxt-frr-") // a test's own may not be entered by others
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	run(t, h, "chown", "frr:frr", dir)
	for name, conf := range map[string]string{"zebra": "", "bfdd": "", "bgpd": bgpd} {
		must(t, os.WriteFile(filepath.Join(dir, name+".conf"), []byte(conf), 0o644))
	}
	for _, name := range []string{"zebra", "bfdd", "bgpd"} {
		argv := []string{
			"/usr/lib/frr/" + name, "-P", "0", "-z", filepath.Join(dir, "zserv.api"),
			"-f", filepath.Join(dir, name+".conf"), "-i", filepath.Join(dir, name+".pid"), "--vty_socket", dir, "--log", "stdout",
		}
		if name == "bfdd" {
			argv = append(argv, "--bfdctl", filepath.Join(dir, "bfdd.sock"))
		}
		p, err := h.Start(argv...)
		must(t, err)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s:\n%s", name, p.Output())
			}
		})
		if name == "zebra" { // the others speak to it
			eventually(t, func() error { _, err := os.Stat(filepath.Join(dir, "zserv.api")); return err })
		}
	}
	return dir
}

// With FRR as the router as with BIRD: directors are paths when they are ready,
// one that is drained is left and comes back, one that stops or is killed costs
// nothing, one that hangs is found by BFD within a second, and what nobody serves
// is withdrawn.
func TestFRRAsRouter(t *testing.T) {
	f := newFabricOf(t)
	f.startFRR()
	f.direct(fabricDirectors, fabricBody(hashed, "sloppy_tcp: true\n"))
	load, err := f.Load(fabricLoad())
	must(t, err)
	must(t, load.Await(t.Context(), 20))

	_, err = f.LVX(t.Context(), "d1", "drain", "--director", "--wait=20s")
	must(t, err)
	f.awaitPath("d1", false)
	must(t, load.Await(t.Context(), 20))
	_, err = f.LVX(t.Context(), "d1", "drain", "--director", "--undo")
	must(t, err)
	f.awaitPath("d1", true)
	must(t, load.Await(t.Context(), 20))

	must(t, f.Leave("d1"))
	f.awaitPath("d1", false)
	must(t, load.Await(t.Context(), 20))
	must(t, f.Start(t.Context(), "d1"))
	f.awaitPath("d1", true)
	must(t, load.Await(t.Context(), 20))

	f.leavesKilled("d2")
	must(t, load.Await(t.Context(), 20))
	f.leavesHung("d3")
	must(t, load.Await(t.Context(), 20))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err)
	f.checkWithdrawal("d1")
}

// A service without quorum is withdrawn at once, by BIRD's reckoning, and
// announced again when it serves.
func TestQuorumLostIsWithdrawn(t *testing.T) {
	f := newFabric(t)
	f.direct(fabricDirectors[:1], fabricBody(hashed, ""))
	eventually(t, func() error { // sessions are looked at every second
		out, err := f.LVX(t.Context(), "d1", "status", "--json")
		must(t, err)
		var st struct {
			BGP bgp.Status `json:"bgp"`
		}
		must(t, json.Unmarshal([]byte(out), &st))
		if p, v := st.BGP.Peers, st.BGP.VIPs; len(p) != 1 || !p[0].IsUp || p[0].BFD != "up" || len(v) != 1 || !v[0].IsAnnounced {
			return fmt.Errorf("status: %+v", st.BGP)
		}
		return nil
	})
	f.checkWithdrawal("d1")
	for _, real := range []string{"r1", "r2"} {
		must(t, f.Cluster.Host(real).SetLink("eth0", true))
	}
	f.awaitPath("d1", true)
}

// checkWithdrawal takes the reals away from the one director that is left, and
// prints when the router has forgotten the VIP, counted from the verdict that
// cost the service its quorum.
func (f *fabric) checkWithdrawal(director string) {
	f.t.Helper()
	monitor, err := f.router.Start("ip", "-ts", "monitor", "route")
	must(f.t, err)
	hears := func(text string) error {
		if !strings.Contains(monitor.Output(), text) {
			return fmt.Errorf("ip monitor has not said %q: %s", text, monitor.Output())
		}
		return nil
	}
	eventually(f.t, func() error { // it hears of nothing before it listens
		run(f.t, f.router, "ip", "route", "replace", "192.0.2.1/32", "dev", "lo")
		run(f.t, f.router, "ip", "route", "del", "192.0.2.1/32", "dev", "lo")
		return hears("192.0.2.1")
	})
	for _, real := range []string{"r1", "r2"} {
		must(f.t, f.Cluster.Host(real).SetLink("eth0", false))
	}
	f.awaitPath(director, false)
	eventually(f.t, func() error { return hears("Deleted " + rig.VIP) })
	forgotten := deletedAt(f.t, monitor, rig.VIP)

	out, err := f.LVX(f.t.Context(), director, "history", "--json")
	must(f.t, err)
	var events []history.Event
	must(f.t, json.Unmarshal([]byte(out), &events))
	var verdict, withdrawn time.Time
	for _, e := range events {
		switch {
		case e.Kind == history.Health && strings.HasSuffix(e.Subject, " of web") && !strings.HasPrefix(e.Text, "up"):
			verdict = e.Time
		case e.Kind == history.Route && strings.HasPrefix(e.Text, "withdrawn"):
			withdrawn = e.Time
		}
	}
	if verdict.IsZero() || withdrawn.Before(verdict) || forgotten.Before(verdict) {
		f.t.Errorf("verdict at %s, withdrawn at %s, forgotten by the router at %s:\n%s", verdict, withdrawn, forgotten, out)
	}
	f.t.Logf("quorum lost: withdrawn after %s, forgotten by the router after %s", withdrawn.Sub(verdict), forgotten.Sub(verdict))
}

// deletedAt is when a route was deleted last, as `ip -ts monitor route` has it.
func deletedAt(t *testing.T, monitor *testenv.Process, route string) (at time.Time) {
	t.Helper()
	for line := range strings.Lines(monitor.Output()) {
		stamp, rest, _ := strings.Cut(strings.TrimPrefix(line, "["), "] ")
		if !strings.HasPrefix(rest, "Deleted "+route) {
			continue
		}
		var err error
		at, err = time.ParseInLocation("2006-01-02T15:04:05.000000", stamp, time.Local)
		must(t, err)
	}
	return at
}
