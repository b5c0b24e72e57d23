package main

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

func testStatus() director.Status {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	addr := netip.MustParseAddr
	return director.Status{
		Version: "1.2.3", Backend: "xdp", Mode: "native", Detail: "eth0: native", Now: now, Started: now.Add(-75 * time.Hour),
		Reload: director.ReloadStatus{At: now.Add(-time.Hour)},
		VRRP: []director.VRRPStatus{{
			Instance: "VI_1", Interface: "eth0", Role: "MASTER", Since: now.Add(-90 * time.Minute), Priority: 150, Why: "no other master was heard",
			Peers: []director.VRRPPeer{{Addr: addr("10.0.0.2"), Priority: 100, Seen: now.Add(-5 * time.Second)}},
		}},
		VIPs: []director.VIPStatus{{Addr: addr("10.0.0.100"), Held: true, Instance: "VI_1"}, {Addr: addr("10.0.0.101"), Held: true}},
		BFD: []director.BFDStatus{
			{Session: "r1", Neighbour: addr("10.0.0.11"), IsUp: true, State: "up", Since: now.Add(-time.Hour), Detection: 300 * time.Millisecond},
			{Session: "r2", Neighbour: addr("10.0.0.12"), State: "down", Since: now.Add(-time.Minute), Reason: "down: detection time expired"},
		},
		Services: []director.ServiceStatus{{
			Name: "web", State: "up", Scheduler: "wrr", Listeners: []string{"10.0.0.100:80/tcp", "10.0.0.100:443/tcp"}, Mark: 10,
			Backend: "xdp", Sorry: "127.0.0.1",
			Reals: []director.RealStatus{
				{Addr: addr("10.0.0.11"), State: "up", Weight: 1, Configured: 1, Checks: 1, Since: now.Add(-250 * time.Millisecond), MAC: "02:00:00:00:00:0b"},
				{Addr: addr("10.0.0.12"), Port: 81, State: "down", Weight: 2, Configured: 2, Checks: 1, Flapping: true, Reason: "http GET /: 503\x1b[2J"},
				{Addr: addr("10.0.0.13"), State: "drained", Weight: 0, Configured: 3, Active: 2, Inactive: 5},
			},
		}, {
			Name: "mail", State: "down", Scheduler: "rr", Listeners: []string{"10.0.0.101:25/tcp"}, Reason: "weight 0 up, quorum needs 1",
			Backend: "ipvs", BackendReason: "forward nat",
		}, {
			Name: "quic", State: "up", Scheduler: "mh", Listeners: []string{"10.0.0.101:443/udp"}, Backend: "xdp", Rows: 4093, UnsettledRows: 12,
		}, {
			Name: "dns", State: "up", Scheduler: "sh", Listeners: []string{"10.0.0.101:53/udp"}, Backend: "xdp", Rows: 256,
		}},
		Tables: []director.TableStatus{
			{Name: "flows", Used: 950, Capacity: 1000, Evicted: map[string]uint64{"half_open": 3, "expired": 8}}, {Name: "templates", Capacity: 64},
		},
		Verdicts: []director.VerdictCount{{Name: "forwarded", Meaning: "sent to its real", Count: 12345}},
	}
}

const testScreen = `lvx 1.2.3, xdp native, up 3 days
eth0: native
configuration of TIME

vrrp VI_1  MASTER  1h30m0s  priority 150  eth0  10.0.0.2 (100, 5s ago)  no other master was heard

VIP 10.0.0.100  held by VI_1
VIP 10.0.0.101  held

bfd r1  up    1h0m0s  10.0.0.11  detects in 300ms
bfd r2  down  1m0s    10.0.0.12  down: detection time expired

web  up  wrr  10.0.0.100:80/tcp 10.0.0.100:443/tcp  FWM 10  xdp
  10.0.0.11     up       weight 1                 250ms  02:00:00:00:00:0b
  10.0.0.12:81  down     weight 2                 -      -                  flapping, http GET /: 503?[2J
  10.0.0.13     drained  weight 0 (configured 3)  -      -                  no check, 7 connections left
  127.0.0.1     sorry server

mail  down  rr  10.0.0.101:25/tcp  ipvs: forward nat  (weight 0 up, quorum needs 1)

quic  up  mh  10.0.0.101:443/udp  xdp
  stateless: 12 of 4093 rows are not settled, their connections are kept

dns  up  sh  10.0.0.101:53/udp  xdp
  stateless: all 256 rows are settled, no connections are kept

table flows      950 of 1000, 8 expired given up, 3 half-open given up
table templates  0 of 64

packets forwarded  12345  sent to its real
`

func screenOf(t *testing.T, st director.Status, color bool) string {
	t.Helper()
	var b bytes.Buffer
	if err := printStatus(&b, st, color); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(b.String(), st.Reload.At.Local().Format(time.DateTime), "TIME", 1)
}

func TestPrintStatus(t *testing.T) {
	if got := screenOf(t, testStatus(), false); got != testScreen {
		t.Errorf("got\n%s\nwant\n%s", got, testScreen)
	}
}

func TestPrintStatusTrouble(t *testing.T) {
	st := testStatus()
	st.Reload.Error = "lvx.yaml:7: wait: unknown key"
	st.Warnings = []warnings.Warning{
		{Kind: "configuration", Subject: "configuration", Text: "lvx.yaml: holds auth_pass"},
		{Kind: "not-applied", Subject: "data path", Text: "state not applied: map full\nreally", Cure: "see the error"},
		{Kind: "stale-override", Subject: "10.0.0.99 of web", Text: "override (drain) for a real that is not configured", Note: true},
	}
	st.VRRP[0].Warning = "another host claims virtual router 51"
	got := screenOf(t, st, false)
	for _, line := range []string{
		"reload of TIME refused\n",
		"warning: data path: state not applied: map full really (see the error)\n",
		"warning: configuration: lvx.yaml: holds auth_pass\n",
		"note: 10.0.0.99 of web: override (drain) for a real that is not configured\n",
		"another host claims virtual router 51\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
}

// Colours change nothing but colours.
func TestPrintStatusColor(t *testing.T) {
	got := screenOf(t, testStatus(), true)
	if !strings.Contains(got, "\x1b[31m  10.0.0.12:81") || !strings.Contains(got, "\x1b[32mweb  up") {
		t.Errorf("%q", got)
	}
	for _, code := range []string{"31", "32", "33", "0"} {
		got = strings.ReplaceAll(got, "\x1b["+code+"m", "")
	}
	if got != testScreen {
		t.Errorf("got\n%s", got)
	}
}

func TestColors(t *testing.T) {
	if colors(&bytes.Buffer{}) {
		t.Error("colours for a buffer")
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if colors(f) {
		t.Error("colours for a file that is no terminal")
	}
	t.Setenv("NO_COLOR", "1")
	if colors(os.Stdout) {
		t.Error("colours in spite of NO_COLOR")
	}
}

// --check answers with its exit status.
func TestStatusCheck(t *testing.T) {
	d := &recorder{}
	serve(t, d)
	if code, out, _ := lvx("status", "--check"); code != exitFailed || !strings.Contains(out, "mail  down") {
		t.Errorf("down: %d\n%s", code, out)
	}
	fine := testStatus()
	fine.Services = fine.Services[:1]
	fine.Services[0].Reals = fine.Services[0].Reals[:1]
	if isSomethingDown(fine) {
		t.Error("all is well, and that is down")
	}
	for what, spoil := range map[string]func(*director.Status){
		"sorry": func(st *director.Status) { st.Services[0].State = "sorry" },
		"real":  func(st *director.Status) { st.Services[0].Reals[0].State = "unresolved" },
		"fault": func(st *director.Status) { st.VRRP[0].Role = "FAULT" },
		"state": func(st *director.Status) { st.Fault = "map full" },
	} {
		st := testStatus()
		st.Services = st.Services[:1]
		st.Services[0].Reals = st.Services[0].Reals[:1]
		if spoil(&st); !isSomethingDown(st) {
			t.Errorf("%s: nothing is down", what)
		}
	}
	if code, _, stderr := lvx("status", "--check", "--socket", "/nowhere"); code != exitUsage || strings.Count(stderr, "\n") != 1 {
		t.Errorf("no daemon: %d %q", code, stderr)
	}
}
