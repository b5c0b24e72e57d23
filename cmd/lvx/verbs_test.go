package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// recorder is a director that remembers what it was asked.
type recorder struct {
	calls []string
	err   error
}

func (d *recorder) note(call string) error {
	d.calls = append(d.calls, call)
	return d.err
}

func (d *recorder) Status(context.Context) (director.Status, error) { return testStatus(), d.err }

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

func (d *recorder) Reload(context.Context) error { return d.note("reload") }

func (d *recorder) SetWeight(_ context.Context, service, real string, w *uint16) error {
	call := "clear"
	if w != nil {
		call = "weight " + string(rune('0'+*w))
	}
	return d.note(call + " " + service + " " + real)
}

func (d *recorder) Drain(_ context.Context, service, real string, undo bool) error {
	if undo {
		return d.note("undo " + service + " " + real)
	}
	return d.note("drain " + service + " " + real)
}

// serve runs a daemon's socket for d and points LVX_SOCKET at it.
func serve(t *testing.T, d *recorder) {
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
		{"reload", "reload", ""},
		{"weight web 10.0.0.11 5", "weight 5 web 10.0.0.11", ""},
		{"weight web 10.0.0.11 --clear", "clear web 10.0.0.11", ""},
		{"weight --clear web 10.0.0.11", "clear web 10.0.0.11", ""},
		{"drain web 10.0.0.11", "drain web 10.0.0.11", ""},
		{"drain web 10.0.0.11 --undo", "undo web 10.0.0.11", ""},
		{"explain tcp 1.2.3.4:5 10.0.0.100:80", "", "first\nflags \nverdict: forwarded, service web, real 10.0.0.11\n"},
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
	for _, args := range []string{"status --json", "list --json", "explain --json udp 1.2.3.4:5 10.0.0.100:53"} {
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
