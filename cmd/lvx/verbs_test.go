package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// recorder is a director that remembers what it was asked.
type recorder struct {
	calls []string
	err   error
	diff  []string

	losses []director.Loss // of the first question; each has another frame at the next
}

func (d *recorder) note(call string) error {
	d.calls = append(d.calls, call)
	return d.err
}

func (d *recorder) Ping(context.Context) error { return d.err }

func (d *recorder) Status(context.Context) (director.Status, error) { return testStatus(), d.err }

func (d *recorder) Losses() []director.Loss {
	_ = d.note("losses")
	now := slices.Clone(d.losses)
	for i := range d.losses {
		d.losses[i].Frames++
	}
	return now
}

func (d *recorder) List(_ context.Context, w director.Want) (director.Listing, error) {
	l := director.Listing{
		Services: []lb.Service{{
			Name: "web", Scheduler: lb.WRR,
			Listeners: []lb.Listener{{Addr: netip.MustParseAddr("10.0.0.100"), Proto: lb.TCP, First: 80, Last: 80}},
			Reals:     []lb.Real{{Addr: netip.MustParseAddr("10.0.0.11"), Weight: 3}},
		}},
		Observed: lb.Observed{Services: []lb.ObservedService{{
			Name: "web", Reals: []lb.ObservedReal{{Addr: netip.MustParseAddr("10.0.0.11"), Weight: 3, Usable: true}},
		}}},
		Stats: lb.Stats{Services: []lb.ServiceStats{{Name: "web", Reals: []lb.RealStats{{Addr: netip.MustParseAddr("10.0.0.11")}}}}},
	}
	if w.Connections {
		l.Connections = []lb.Connection{{
			Service: "web", Proto: lb.TCP, State: "ESTABLISHED", Expires: 90 * time.Second,
			Client:  netip.MustParseAddrPort("172.16.0.5:20003"),
			Virtual: netip.MustParseAddrPort("10.0.0.100:80"), Real: netip.MustParseAddrPort("10.0.0.11:80"),
		}}
	}
	return l, d.err
}

func (d *recorder) Explain(_ context.Context, p lb.Packet) (lb.Explanation, error) {
	return lb.Explanation{Verdict: "forwarded", Service: "web", Real: "10.0.0.11", Steps: []string{"first", "flags " + p.Flags}}, d.err
}

func (d *recorder) Trace(_ context.Context, f lb.TraceFilter, _ int) (lb.Trace, error) {
	if err := d.note(fmt.Sprint("trace ", f.Ports)); err != nil {
		return nil, err
	}
	return newWatch(), d.err
}

func (d *recorder) Diff(_ context.Context, text []byte) ([]string, error) {
	return d.diff, d.note(strings.TrimSpace("diff " + string(text)))
}

func (d *recorder) History(f history.Filter) []history.Event {
	_ = d.note(strings.Join(strings.Fields(fmt.Sprint("history ", f.Kind, " ", f.Subject, " ", !f.Since.IsZero())), " "))
	root := uint32(0)
	return []history.Event{
		{Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local), Kind: history.Health, Subject: "10.0.0.11 of web", Text: "down: refused\x1b[31m"},
		{Time: time.Date(2030, 1, 2, 3, 4, 6, 0, time.Local), Kind: history.Operator, Subject: "10.0.0.11 of web", Text: "drained", UID: &root},
	}
}

func (d *recorder) Edit(_ context.Context, commands []ipvsadm.Command) (ipvsadm.Result, error) {
	call := "edit"
	for _, c := range commands {
		call += " " + c.Op.String()
	}
	return ipvsadm.Result{Failures: make([]*ipvsadm.Failure, len(commands))}, d.note(call)
}

func (d *recorder) Export(_ context.Context, runtimeOnly bool) (string, error) {
	return "services: []\n", d.note(fmt.Sprint("export ", runtimeOnly))
}

func (d *recorder) ClearRuntime(context.Context) (director.Result, error) {
	return director.Result{Did: []string{"runtime layer forgotten"}}, d.note("clear runtime")
}

func (d *recorder) Reload(context.Context) (director.Result, error) {
	return director.Result{Did: d.diff}, d.note("reload")
}

func (d *recorder) SetWeight(_ context.Context, service, real string, w *uint16) (director.Result, error) {
	call := "clear"
	if w != nil {
		call = "weight " + string(rune('0'+*w))
	}
	return director.Result{Did: []string{"web 10.0.0.11: weight 5 (configured 3)"}}, d.note(call + " " + service + " " + real)
}

func (d *recorder) DrainDirector(_ context.Context, undo bool) (director.Result, error) {
	call := "drain director"
	if undo {
		call = "undo director"
	}
	return director.Result{Did: []string{"director: drained"}}, d.note(call)
}

func (d *recorder) Drain(_ context.Context, service, real string, o director.DrainOptions) (director.Result, error) {
	r := director.Result{Did: []string{"web 10.0.0.11: drained"}}
	if o.Undo {
		return r, d.note("undo " + service + " " + real)
	}
	if o.Force {
		return r, d.note("force " + service + " " + real)
	}
	return r, d.note("drain " + service + " " + real)
}

// serve runs a daemon's socket for d and points LVX_SOCKET at it.
func serve(t *testing.T, d admin.Director) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "lvx.sock")
	t.Setenv("LVX_SOCKET", socket)
	ctx, cancel := context.WithCancel(context.Background())
	s := admin.NewServer(admin.Options{Director: d, Socket: socket})
	res := make(chan error, 1)
	go func() { res <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-res; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Up():
	case err := <-res:
		res <- nil
		t.Fatal(err)
	}
}

func lvx(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

func TestVerbs(t *testing.T) {
	d := &recorder{}
	serve(t, d)
	for _, c := range []struct{ args, call, out string }{
		{"reload", "reload", "reloaded, nothing has changed\n"},
		{"diff", "diff", ""},
		{"ipvsadm -C", "edit flush", ""},
		{"ipvsadm -A -t 10.0.0.100:80 -s rr", "edit add-service", ""},
		{"export", "export false", "services: []\n"},
		{"export --runtime", "export true", "services: []\n"},
		{"runtime clear", "clear runtime", "runtime layer forgotten\n"},
		{"weight web 10.0.0.11 5", "weight 5 web 10.0.0.11", "web 10.0.0.11: weight 5 (configured 3)\n"},
		{"weight web 10.0.0.11 --clear", "clear web 10.0.0.11", "web 10.0.0.11: weight 5 (configured 3)\n"},
		{"weight --clear web 10.0.0.11", "clear web 10.0.0.11", "web 10.0.0.11: weight 5 (configured 3)\n"},
		{"drain web 10.0.0.11", "drain web 10.0.0.11", "web 10.0.0.11: drained\n"},
		{"drain web 10.0.0.11 --force", "force web 10.0.0.11", "web 10.0.0.11: drained\n"},
		{"drain web 10.0.0.11 --wait=5s", "drain web 10.0.0.11", "web 10.0.0.11: drained\n0 connections left after 0s\n"},
		{"drain web 10.0.0.11 --wait", "drain web 10.0.0.11", "web 10.0.0.11: drained\n0 connections left after 0s\n"},
		{"drain web 10.0.0.11 --undo", "undo web 10.0.0.11", "web 10.0.0.11: drained\n"},
		{"drain --director", "drain director", "director: drained\n"},
		{"drain --director --undo", "undo director", "director: drained\n"},
		{"history --kind health --subject web --since 1h", "history health web true",
			"2030-01-02 03:04:05 health   10.0.0.11 of web: down: refused?[31m\n2030-01-02 03:04:06 operator 10.0.0.11 of web: drained (uid 0)\n"},
		{"explain tcp 1.2.3.4:5 10.0.0.100:80", "", "first\nflags \nverdict: forwarded, service web, real 10.0.0.11\n"},
		{"explain icmp 1.2.3.4 10.0.0.100 --type 3", "", "first\nflags \nverdict: forwarded, service web, real 10.0.0.11\n"},
		{"explain TCP 1.2.3.4:5 10.0.0.100:80 --flags fa", "", "first\nflags FA\nverdict: forwarded, service web, real 10.0.0.11\n"},
		{"list -n", "", "IP Virtual Server version 1.2.1 (size=4096)\n" +
			"Prot LocalAddress:Port Scheduler Flags\n" +
			"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n" +
			"TCP  10.0.0.100:80 wrr\n" +
			"  -> 10.0.0.11:80                 Route   3      0          0         \n"},
		{"list -nc", "", "IPVS connection entries\n" +
			"pro expire state       source             virtual            destination\n" +
			"TCP 01:30  ESTABLISHED 172.16.0.5:20003   10.0.0.100:80      10.0.0.11:80\n"},
	} {
		d.calls = nil
		code, out, stderr := lvx(strings.Fields(c.args)...)
		if code != exitDone || stderr != "" || out != c.out || strings.Join(d.calls, ";") != c.call {
			t.Errorf("%s: code %d, calls %q\n%s%s", c.args, code, d.calls, out, stderr)
		}
	}
}

func TestVerbsJSON(t *testing.T) {
	serve(t, &recorder{})
	for _, args := range []string{"status --json", "list --json", "history --json", "explain --json udp 1.2.3.4:5 10.0.0.100:53"} {
		code, out, stderr := lvx(strings.Fields(args)...)
		if code != exitDone || stderr != "" || !json.Valid([]byte(out)) {
			t.Errorf("%s: %d %s%s", args, code, out, stderr)
		}
		if regexp.MustCompile(`"[A-Z]\w*":`).MatchString(out) {
			t.Errorf("%s: keys are not written as elsewhere\n%s", args, out)
		}
	}
}

func TestRefusals(t *testing.T) {
	d := &recorder{err: errors.New("/etc/lvx/lvx.yaml:7: weight: found -1\nexpected 0 to 65535")}
	serve(t, d)
	for _, args := range []string{"reload", "weight web 10.0.0.11 5", "drain web 10.0.0.11", "status", "list", "explain tcp 1.2.3.4:5 1.2.3.4:6"} {
		code, out, stderr := lvx(strings.Fields(args)...)
		if want := "lvx: /etc/lvx/lvx.yaml:7: weight: found -1; expected 0 to 65535\n"; code != exitFailed || out != "" || stderr != want {
			t.Errorf("%s: %d %q %q", args, code, out, stderr)
		}
	}
}

// diff answers with its exit status: 0 nothing, 1 something, 2 no answer.
func TestDiffStatus(t *testing.T) {
	d := &recorder{diff: []string{"peers: changed", "service web: remove real 10.0.0.11: ends 2 connections"}}
	serve(t, d)
	code, out, stderr := lvx("diff")
	if code != exitFailed || stderr != "" || out != "peers: changed\nservice web: remove real 10.0.0.11: ends 2 connections\n" {
		t.Errorf("%d %q %q", code, out, stderr)
	}
	file := filepath.Join(t.TempDir(), "new.yaml")
	const text = "interface: eth0\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.calls = nil
	if code, _, _ := lvx("diff", "-c", file); code != exitFailed || strings.Join(d.calls, ";") != "diff "+strings.TrimSpace(text) {
		t.Errorf("%d, calls %q", code, d.calls)
	}
	for args, want := range map[string]string{"diff -c /nowhere.yaml": "no such file", "diff --socket /nowhere": "no lvx runs here"} {
		if code, _, stderr := lvx(strings.Fields(args)...); code != exitUsage || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: %d %q", args, code, stderr)
		}
	}
}

func TestWaitDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rest := []uint64{5, 5, 2, 0}
		left := func(context.Context) (n uint64, err error) {
			n, rest = rest[0], rest[1:]
			return n, nil
		}
		var out bytes.Buffer
		if err := waitDrained(t.Context(), &out, 0, leftover{what: "connections"}, left); err != nil || out.String() != "5 connections left after 0s\n2 connections left after 2s\n0 connections left after 3s\n" {
			t.Errorf("%q, %v", out.String(), err)
		}
		err := waitDrained(t.Context(), io.Discard, 10*time.Second, leftover{what: "connections"}, func(context.Context) (uint64, error) { return 7, nil })
		if err == nil || !strings.HasPrefix(err.Error(), "7 connections are left after 10s") {
			t.Errorf("got %v", err)
		}
	})
}

// What a drained director still leads here: VIPs of virtual routers, and those
// that are announced.
func TestAttractingVIPs(t *testing.T) {
	st := director.Status{
		VIPs: []director.VIPStatus{{Held: true, Instance: "VI_1"}, {Instance: "VI_2"}, {Held: true}},
		BGP:  &bgp.Status{VIPs: []bgp.Decision{{IsAnnounced: true, IsDraining: true}, {Reason: "drained"}}},
	}
	if n := attractingVIPs(st); n != 2 {
		t.Errorf("%d VIPs", n)
	}
	st.BGP.Hook = []bgp.HookStatus{{Name: "program /bin/announce", IsCurrent: true}, {Name: "file /run/routes"}}
	if n := attractingVIPs(st); n != 3 {
		t.Errorf("before the file says so: %d VIPs", n)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{"": {}, "90m": now.Add(-90 * time.Minute), "2029-12-31T00:00:00Z": time.Date(2029, 12, 31, 0, 0, 0, 0, time.UTC)} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := parseSince("yesterday", now); err == nil {
		t.Error("yesterday is a time")
	}
}
