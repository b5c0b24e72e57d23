package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudflare/ipvs"
	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func apply(t *testing.T, b *Backend, s lb.State) {
	t.Helper()
	if err := b.Apply(context.Background(), s); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func equalText(t *testing.T, what, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestApplyOnce(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	group := named("group", web(reals(1), "10.0.0.100:80-89/tcp", "10.0.0.100:53/udp"))
	group.Mark = 10
	s := state(web(reals(1, 0, 3)), group)
	apply(t, b, s)
	equalText(t, "table", k.table(), `
FWM 10 rr: 10.0.0.11*1
TCP 10.0.0.100:80 rr: 10.0.0.11*1 10.0.0.12*0 10.0.0.13*3`)
	want := []string{
		"sysctl ipv4/vs/expire_nodest_conn=1",
		"timeouts 900 120 300",
		"add service TCP 10.0.0.100:80",
		"add real TCP 10.0.0.100:80 10.0.0.11 w1",
		"add real TCP 10.0.0.100:80 10.0.0.12 w0",
		"add real TCP 10.0.0.100:80 10.0.0.13 w3",
		"add service FWM 10",
		"add real FWM 10 10.0.0.11 w1",
		"rules",
	}
	if diff := cmp.Diff(want, k.changes()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	apply(t, b, s)
	apply(t, b, s.Clone())
	if again := k.changes(); len(again) != 0 {
		t.Errorf("the same state again changed %q", again)
	}
}

// TestApplyEdits: what a second state changes, step by step.
func TestApplyEdits(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new lb.State
		want     []string
	}{
		{"weight", state(web(reals(1, 1))), state(web(reals(1, 7))), []string{"edit real TCP 10.0.0.100:80 10.0.0.12 w7"}},
		{
			"scheduler", state(web(reals(1))),
			state(func() lb.Service { s := web(reals(1)); s.Scheduler = lb.SH; s.Flags = lb.SHPort; return s }()),
			[]string{"edit service TCP 10.0.0.100:80"},
		},
		{
			"persistence", state(web(reals(1))),
			state(func() lb.Service {
				s := web(reals(1))
				s.Persistence = lb.Persistence{Timeout: time.Minute, Prefix: 24}
				return s
			}()),
			[]string{"edit service TCP 10.0.0.100:80"},
		},
		{
			"real appended", state(web(reals(1))), state(web(reals(1, 1))),
			[]string{"add real TCP 10.0.0.100:80 10.0.0.12 w1"},
		},
		{
			"real returns to the front", state(web(reals(1, 1, 1)[1:])), state(web(reals(1, 1, 1))),
			[]string{
				"add real TCP 10.0.0.100:80 10.0.0.11 w1",
				"sysctl ipv4/vs/expire_nodest_conn=0",
				"remove real TCP 10.0.0.100:80 10.0.0.12", "add real TCP 10.0.0.100:80 10.0.0.12 w1",
				"remove real TCP 10.0.0.100:80 10.0.0.13", "add real TCP 10.0.0.100:80 10.0.0.13 w1",
				"sysctl ipv4/vs/expire_nodest_conn=1",
			},
		},
		{
			"one real for another", state(web(reals(1, 1)[:1])), state(web(reals(1, 1)[1:])),
			[]string{"add real TCP 10.0.0.100:80 10.0.0.12 w1", "remove real TCP 10.0.0.100:80 10.0.0.11"},
		},
		{
			"address to mark", state(web(reals(1))),
			state(web(reals(1), "10.0.0.100:80/tcp", "10.0.0.100:443/tcp")),
			[]string{
				"add service FWM 1819672576", "add real FWM 1819672576 10.0.0.11 w1", "rules", "remove service TCP 10.0.0.100:80",
			},
		},
		{
			"mark to address", state(web(reals(1), "10.0.0.100:80/tcp", "10.0.0.100:443/tcp")), state(web(reals(1))),
			[]string{
				"add service TCP 10.0.0.100:80", "add real TCP 10.0.0.100:80 10.0.0.11 w1", "no rules", "remove service FWM 1819672576",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFakeKernel()
			b := k.backend(t, t.TempDir())
			apply(t, b, c.old)
			k.changes()
			apply(t, b, c.new)
			if diff := cmp.Diff(c.want, k.changes()); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSorryServer(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	s := web(reals(1, 1))
	s.Sorry = netip.MustParseAddr("127.0.0.1")
	apply(t, b, state(s))
	k.changes()
	s.Reals = reals(0, 0)
	apply(t, b, state(s))
	want := []string{
		"add real TCP 10.0.0.100:80 127.0.0.1 w1",
		"edit real TCP 10.0.0.100:80 10.0.0.11 w0", "edit real TCP 10.0.0.100:80 10.0.0.12 w0",
	}
	if diff := cmp.Diff(want, k.changes()); diff != "" {
		t.Errorf("all quiesced (-want +got):\n%s", diff)
	}
	s.Reals = nil
	apply(t, b, state(s))
	equalText(t, "no reals", k.table(), "TCP 10.0.0.100:80 rr: 127.0.0.1*1")
	s.Reals = reals(1, 1)
	apply(t, b, state(s))
	equalText(t, "reals are back", k.table(), "TCP 10.0.0.100:80 rr: 10.0.0.11*1 10.0.0.12*1")
}

// An inhibited sorry server is not there before it serves, and stays with weight
// 0 once it has, across another daemon, too; keepalived's does.
func TestInhibitedSorryServerStays(t *testing.T) {
	k, dir := newFakeKernel(), t.TempDir()
	s := web(reals(1, 1))
	s.Sorry, s.SorryInhibit = netip.MustParseAddr("10.0.0.20"), true
	up, down, inFront := state(s), state(web(nil)), state(s)
	down.Services[0].Sorry, down.Services[0].SorryInhibit = s.Sorry, true
	inFront.Services[0].SorryInhibit = false
	b := k.backend(t, dir)
	for n, c := range []struct {
		state lb.State
		want  string
	}{
		{up, " 10.0.0.11*1 10.0.0.12*1"},
		{down, " 10.0.0.20*1"},
		{up, " 10.0.0.20*0 10.0.0.11*1 10.0.0.12*1"},
		{up, " 10.0.0.20*0 10.0.0.11*1 10.0.0.12*1"},
		{down, " 10.0.0.20*1"},
		{up, " 10.0.0.20*0 10.0.0.11*1 10.0.0.12*1"},
		{inFront, " 10.0.0.11*1 10.0.0.12*1"},
	} {
		if n == 3 {
			b = k.backend(t, dir)
		}
		apply(t, b, c.state)
		equalText(t, fmt.Sprint("step ", n), k.table(), "TCP 10.0.0.100:80 rr:"+c.want)
	}
	k.changes()
	apply(t, b, down)
	k.changes()
	apply(t, b, up)
	if moves := k.changes(); slices.ContainsFunc(moves, func(c string) bool { return strings.HasPrefix(c, "remove real") }) {
		t.Errorf("its connections are cut: %q", moves)
	}
}

func TestStandby(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	both := named("both", web(reals(1), "10.0.0.100:443/tcp", "10.0.0.101:443/tcp"))
	s := state(web(reals(1)), both)
	s.VIPs = []lb.VIP{{Addr: vip, Standby: true}}
	apply(t, b, s)
	equalText(t, "one of two VIPs", k.table(), "FWM 1819672576 rr: 10.0.0.11*1")
	if got := k.rules.spans; len(got) != 1 || got[0].addr.String() != "10.0.0.101" {
		t.Errorf("packets marked: %+v", got)
	}
	if o, err := b.Observed(); err != nil || len(o.Services) != 1 || o.Services[0].Name != "both" {
		t.Errorf("observed %+v, %v", o, err)
	}
	s.VIPs = append(s.VIPs, lb.VIP{Addr: netip.MustParseAddr("10.0.0.101"), Standby: true})
	apply(t, b, s)
	equalText(t, "both", k.table(), "")
	if k.rules != nil {
		t.Errorf("rules left: %+v", k.rules)
	}
	if st, err := b.Stats(); err != nil || len(st.Services) != 2 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

// TestErrorsByService: one bad service neither stops the others nor loses
// what it had.
func TestErrorsByService(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	apply(t, b, state(web(reals(1, 1)), named("mail", web(reals(1), "10.0.0.100:25/tcp"))))

	six := web(append(reals(1), lb.Real{Addr: netip.MustParseAddr("2001:db8::1"), Weight: 1}))
	err := b.Apply(context.Background(), state(six, named("mail", web(reals(5), "10.0.0.100:25/tcp"))))
	if err == nil || !strings.Contains(err.Error(), "service web: real 2001:db8::1: no listener of its address family") {
		t.Errorf("error %v", err)
	}
	equalText(t, "the bad one stays, the good one changes", k.table(), `
TCP 10.0.0.100:25 rr: 10.0.0.11*5
TCP 10.0.0.100:80 rr: 10.0.0.11*1 10.0.0.12*1`)

	// The same mistake again, and the one before is still what counts.
	if err := b.Apply(context.Background(), state(six)); err == nil {
		t.Error("the same mistake is accepted the second time")
	}
	equalText(t, "after the same mistake", k.table(), "TCP 10.0.0.100:80 rr: 10.0.0.11*1 10.0.0.12*1")

	none := web(reals(1), "10.0.0.100:81/tcp")
	none.Name, none.Scheduler = "new", "nosuch"
	err = b.Apply(context.Background(), state(web(reals(1, 1)), none))
	if err == nil || !strings.Contains(err.Error(), "service new") || !strings.Contains(err.Error(), "ip_vs_nosuch") {
		t.Errorf("unknown scheduler: error %v", err)
	}
	equalText(t, "mail is gone, web stays", k.table(), "TCP 10.0.0.100:80 rr: 10.0.0.11*1 10.0.0.12*1")
}

// TestFailedMove: a service that cannot be made at its new place stays at its
// old one, marks included.
func TestFailedMove(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	group := web(reals(1), "10.0.0.100:80/tcp", "10.0.0.100:443/tcp")
	apply(t, b, state(group))
	k.fail = func(change string) error {
		if change == "add service TCP 10.0.0.100:80" {
			return syscall.ENOMEM
		}
		return nil
	}
	err := b.Apply(context.Background(), state(web(reals(1))))
	if !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), "service web (TCP 10.0.0.100:80)") {
		t.Errorf("error %v", err)
	}
	equalText(t, "after the failure", k.table(), "FWM 1819672576 rr: 10.0.0.11*1")
	if k.rules == nil || len(k.rules.spans) != 2 {
		t.Errorf("rules %+v", k.rules)
	}
	k.fail = nil
	apply(t, b, state(web(reals(1))))
	equalText(t, "when it works", k.table(), "TCP 10.0.0.100:80 rr: 10.0.0.11*1")
}

// TestCollision: two services that are one to the kernel.
func TestCollision(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	first, second := web(reals(1)), named("second", web(reals(1), "10.0.0.101:80/tcp"))
	first.Mark, second.Mark = 5, 5
	err := b.Apply(context.Background(), state(first, second))
	if err == nil || !strings.Contains(err.Error(), "service second: FWM 5 is service web already") {
		t.Errorf("error %v", err)
	}
	equalText(t, "table", k.table(), "FWM 5 rr: 10.0.0.11*1")
}

// TestTakeOver: a service that somebody made and the configuration names is
// ours from then on, with a warning.
func TestTakeOver(t *testing.T) {
	k := newFakeKernel()
	old := ipvs.Service{Address: vip, Port: 80, Protocol: ipvs.TCP, Family: ipvs.INET, Scheduler: "lc"}
	if err := k.CreateService(old); err != nil {
		t.Fatal(err)
	}
	b := k.backend(t, t.TempDir())
	var text strings.Builder
	b.log = slog.New(slog.NewTextHandler(&text, nil))
	apply(t, b, state(web(reals(1))))
	apply(t, b, state(web(reals(1))))
	if strings.Count(text.String(), "level=WARN") != 1 || !strings.Contains(text.String(), "TCP 10.0.0.100:80") {
		t.Errorf("log:\n%s", text.String())
	}
	if err := b.Close(false); err != nil || k.table() != "" {
		t.Errorf("after close: %v, %s", err, k.table())
	}
}

func TestCheck(t *testing.T) {
	twice := web(reals(1, 1))
	twice.Reals[1] = lb.Real{Addr: twice.Reals[0].Addr, Port: 8080, Weight: 1}
	nat := web(reals(1, 1))
	nat.Reals[0].Forward = lb.NAT
	nat.Reals[1] = lb.Real{Addr: nat.Reals[0].Addr, Port: 8080, Weight: 1, Forward: lb.NAT}
	low := web(reals(1))
	low.Reals[0].Upper, low.Reals[0].Lower = 5, 10
	for _, c := range []struct {
		name string
		svc  lb.Service
		want string
	}{
		{"fine", web(reals(1, 1)), ""},
		{"no listener", lb.Service{Name: "x"}, "no listener"},
		{"one host twice", twice, "listed twice"},
		{"one host twice with NAT", nat, ""},
		{"thresholds", low, "lower_threshold 10 above upper_threshold 5"},
	} {
		err := check(c.svc)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func TestDriftIsRepaired(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	s := state(web(reals(1, 2)), named("group", web(reals(1), "10.0.0.100:81-90/tcp")))
	apply(t, b, s)
	want := k.table()
	for name, damage := range map[string]func(){
		"all gone":       func() { k.services, k.reals, k.rules = nil, map[key][]ipvs.Destination{}, nil },
		"foreign real":   func() { _ = k.CreateDestination(k.services[0], ipvs.Destination{Address: vip, Port: 80}) },
		"other weight":   func() { k.reals[keyOf(k.services[0])][0].Weight = 9 },
		"other order":    func() { slices.Reverse(k.reals[keyOf(k.services[0])]) },
		"other schedule": func() { k.services[0].Scheduler = "wlc" },
		"sysctl":         func() { k.sysctl[expireNodest] = "0" },
		"timeouts":       func() { k.config.UDPTimeout = 1 },
	} {
		damage()
		apply(t, b, s)
		equalText(t, name, k.table(), want)
		if k.rules == nil || k.sysctl[expireNodest] != "1" || k.config.UDPTimeout != 300 {
			t.Errorf("%s: rules %v, sysctl %v, timeouts %v", name, k.rules, k.sysctl, k.config)
		}
	}
}

// TestOwnership: what others made is never touched, and a successor knows
// what is ours.
func TestOwnership(t *testing.T) {
	k := newFakeKernel()
	foreign := ipvs.Service{Address: vip, Port: 22, Protocol: ipvs.TCP, Family: ipvs.INET, Scheduler: "lc"}
	if err := k.CreateService(foreign); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := k.backend(t, dir)
	apply(t, first, state(web(reals(1)), named("mail", web(reals(1), "10.0.0.100:25/tcp"))))
	if err := first.Close(true); err != nil {
		t.Fatal(err)
	}
	if !k.closed || len(k.services) != 3 {
		t.Fatalf("after close with keep: closed %v, table\n%s", k.closed, k.table())
	}
	second := k.backend(t, dir)
	k.changes()
	apply(t, second, state(web(reals(1))))
	if diff := cmp.Diff([]string{"remove service TCP 10.0.0.100:25"}, k.changes()); diff != "" {
		t.Errorf("successor (-want +got):\n%s", diff)
	}
	if err := second.Close(false); err != nil {
		t.Fatal(err)
	}
	equalText(t, "after close", k.table(), "TCP 10.0.0.100:22 lc:")
	before := newFakeKernel()
	if diff := cmp.Diff(before.sysctl, k.sysctl); diff != "" {
		t.Errorf("sysctls (-want +got):\n%s", diff)
	}
	if k.config != before.config {
		t.Errorf("timeouts %+v, want %+v", k.config, before.config)
	}
	if _, err := os.Stat(ledgerFile(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ledger is left: %v", err)
	}
	if err := second.Close(false); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := second.Apply(context.Background(), lb.State{ExpireNodestConn: true}); err == nil {
		t.Error("apply after close succeeded")
	}
}

// TestCrash: whatever change the process dies at, a successor with an empty
// state takes everything away.
func TestCrash(t *testing.T) {
	for at := 0; ; at++ {
		k := newFakeKernel()
		dir, n := t.TempDir(), 0
		k.fail = func(string) error {
			if n++; n > at {
				return syscall.EINTR
			}
			return nil
		}
		err := k.backend(t, dir).Apply(context.Background(), state(web(reals(1, 1)), named("group", web(reals(1), "10.0.0.100:81-90/tcp"))))
		k.fail = nil
		b := k.backend(t, dir)
		apply(t, b, lb.State{ExpireNodestConn: true})
		if err := b.Close(false); err != nil {
			t.Fatal(err)
		}
		if k.table() != "" || k.rules != nil || k.sysctl[expireNodest] != "0" || k.config.UDPTimeout != 60 {
			t.Errorf("death at change %d: table %q, rules %v, sysctls %v, timeouts %v", at, k.table(), k.rules, k.sysctl, k.config)
		}
		if err == nil {
			return
		}
	}
}

// Faults 2 and 27: a ledger that is broken, or a directory that cannot be
// written, is said and stops nothing.
func TestFault02Ledger(t *testing.T) {
	broken := t.TempDir()
	if err := os.WriteFile(ledgerFile(broken), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{broken: "broken-", filepath.Join(file, "ipvs"): "not a directory"} {
		k := newFakeKernel()
		reports := make(chan error, 9)
		b := newBackend(Options{StateDir: dir, Log: slog.New(slog.DiscardHandler), Report: func(err error) { reports <- err }}, k, fakeFirewall{k}, fakeKnobs{k}, nil)
		apply(t, b, state(web(reals(1))))
		if k.table() == "" {
			t.Errorf("%s: nothing is served", want)
		}
		if err := <-reports; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("reported %v, want %q", err, want)
		}
		if err := b.Close(false); err != nil {
			t.Error(err)
		}
	}
}

// TestSysctls: what NAT needs is set with its first real and restored with
// its last.
func TestSysctls(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	nat := web(reals(1))
	nat.Reals[0].Forward = lb.NAT
	s := state(nat)
	s.ExpireNodestConn, s.SloppyTCP, s.ExpireQuiescentTempl = false, true, true
	apply(t, b, s)
	want := map[string]string{
		"ipv4/vs/expire_nodest_conn": "0", "ipv4/vs/expire_quiescent_template": "1", "ipv4/vs/sloppy_tcp": "1",
		"ipv4/vs/conntrack": "1", "ipv4/ip_forward": "1",
	}
	if diff := cmp.Diff(want, k.sysctl); diff != "" {
		t.Errorf("with NAT (-want +got):\n%s", diff)
	}
	apply(t, b, state(web(reals(1))))
	want = map[string]string{
		"ipv4/vs/expire_nodest_conn": "1", "ipv4/vs/expire_quiescent_template": "0", "ipv4/vs/sloppy_tcp": "0",
		"ipv4/vs/conntrack": "0", "ipv4/ip_forward": "0",
	}
	if diff := cmp.Diff(want, k.sysctl); diff != "" {
		t.Errorf("without (-want +got):\n%s", diff)
	}
	delete(k.sysctl, "ipv4/vs/sloppy_tcp") // a kernel that was built without it
	apply(t, b, s)
}

func TestStatsAndObserved(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	s := web(reals(1, 0, 5))
	s.Reals[2].Upper = 3
	apply(t, b, state(named("other", web(nil, "10.0.0.100:25/tcp")), s))
	st, err := b.Stats()
	if err != nil {
		t.Fatal(err)
	}
	counted := lb.Counters{Conns: 3, InPkts: 7, InBytes: 300}
	rs := func(last byte) lb.RealStats {
		return lb.RealStats{Addr: netip.AddrFrom4([4]byte{10, 0, 0, last}), Active: 2, Inactive: 1, Persist: 1}
	}
	want := []lb.ServiceStats{{Name: "other", Counters: counted}, {Name: "web", Counters: counted, Reals: []lb.RealStats{rs(11), rs(12), rs(13)}}}
	if diff := cmp.Diff(want, st.Services, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	if st.Flows.Used != 9 || st.Template.Used != 3 || st.Verdicts[0].Count != 14 || st.Verdicts[1].Count != 5 {
		t.Errorf("tables %+v %+v, verdicts %+v", st.Flows, st.Template, st.Verdicts)
	}
	o, err := b.Observed()
	if err != nil || o.Backend != "ipvs" || o.Mode != "1.2.1" {
		t.Fatalf("observed %+v, %v", o, err)
	}
	var reasons []string
	for _, r := range o.Services[1].Reals {
		reasons = append(reasons, r.Reason)
		if r.Port != 0 {
			t.Errorf("real %s has port %d, which is the service's", r.Addr, r.Port)
		}
	}
	if diff := cmp.Diff([]string{"", "weight 0", "overloaded: 3 connections, upper_threshold 3"}, reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

// TestPortsOfReals: a real has the port that the state gives it, whatever the kernel
// has: who looks for it goes by that.
func TestPortsOfReals(t *testing.T) {
	k := newFakeKernel()
	b := k.backend(t, t.TempDir())
	svc := web(reals(1, 1, 1))
	svc.Reals[1].Forward, svc.Reals[1].Port = lb.NAT, 8080
	svc.Reals[2].Port = 8080 // of direct routing nobody heeds it
	svc.Sorry = netip.MustParseAddr("10.0.0.99")
	svc.Reals = slices.Insert(svc.Reals, 2, lb.Real{Addr: svc.Reals[1].Addr, Forward: lb.NAT, Weight: 1})
	apply(t, b, state(svc))
	foreign := ipvs.Destination{Address: netip.MustParseAddr("10.0.0.77"), Port: 80, Weight: 1}
	if err := k.CreateDestination(k.services[0], foreign); err != nil {
		t.Fatal(err)
	}
	o, err := b.Observed()
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var seen, counted []string
	for i, r := range o.Services[0].Reals {
		seen = append(seen, netip.AddrPortFrom(r.Addr, r.Port).String())
		counted = append(counted, netip.AddrPortFrom(st.Services[0].Reals[i].Addr, st.Services[0].Reals[i].Port).String())
	}
	want := []string{"10.0.0.11:0", "10.0.0.12:8080", "10.0.0.12:0", "10.0.0.13:8080", "10.0.0.77:80"}
	if !slices.Equal(seen, want) || !slices.Equal(counted, want) {
		t.Errorf("observed %v, counted %v, want %v", seen, counted, want)
	}
}

// TestAvailable: wherever the test runs, the answer is nil or says what is
// missing and what to do.
func TestAvailable(t *testing.T) {
	if err := Available(); err != nil && (!strings.Contains(err.Error(), "module ip_vs for kernel") || !strings.Contains(err.Error(), "use backend: xdp")) {
		t.Errorf("error %v", err)
	}
	if _, err := Open(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Errorf("no state directory: error %v", err)
	}
}
