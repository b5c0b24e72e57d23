package admin

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// stub is a director that answers what it was told to.
type stub struct {
	mu      sync.Mutex
	err     error
	calls   []string
	want    director.Want
	packet  lb.Packet
	weight  *uint16
	status  director.Status
	listing director.Listing
	events  []history.Event
	since   time.Time
	varies  bool // rates change with every question
	watch   *fakeWatch
}

func (s *stub) note(call string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	return s.err
}

func (s *stub) Ping(context.Context) error { return s.note("ping") }

func (s *stub) Status(context.Context) (director.Status, error) {
	return s.status, s.note("status")
}

func (s *stub) Losses() []director.Loss {
	_ = s.note("losses")
	return s.status.Losses
}

func (s *stub) List(_ context.Context, w director.Want) (director.Listing, error) {
	err := s.note("list")
	s.want = w
	if s.varies {
		n := uint64(len(s.calls))
		s.listing.Rates = []lb.ServiceRates{{Name: "web", Rates: lb.Rates{CPS: 40 + n*n%17}, Reals: []lb.RealRates{
			{Addr: real1, Rates: lb.Rates{CPS: 40 + n*n%17}}, {Addr: real2, Port: 81},
		}}}
	}
	return s.listing, err
}

func (s *stub) Explain(_ context.Context, p lb.Packet) (lb.Explanation, error) {
	err := s.note("explain")
	s.packet = p
	return lb.Explanation{Verdict: "forwarded", Service: "web", Steps: []string{"one", "two"}}, err
}

func (s *stub) Trace(_ context.Context, f lb.TraceFilter, keep int) (lb.Trace, error) {
	err := s.note(fmt.Sprintf("trace %v %d", f.Ports, keep))
	return s.watch, err
}

func (s *stub) Diff(_ context.Context, text []byte) ([]string, error) {
	return []string{"service web: remove real 10.0.0.11: ends 2 connections"}, s.note("diff " + string(text))
}

func (s *stub) History(f history.Filter) []history.Event {
	_ = s.note("history " + string(f.Kind) + " " + f.Subject)
	s.since = f.Since
	return s.events
}

func (s *stub) Edit(_ context.Context, commands []ipvsadm.Command) (ipvsadm.Result, error) {
	return ipvsadm.Result{Failures: make([]*ipvsadm.Failure, len(commands))}, s.note(fmt.Sprintf("edit %v", commands[0].Op))
}

func (s *stub) Export(_ context.Context, runtimeOnly bool) (string, error) {
	return "services: []\n", s.note(fmt.Sprint("export ", runtimeOnly))
}

func (s *stub) ClearRuntime(context.Context) (director.Result, error) {
	return director.Result{}, s.note("clear")
}

func (s *stub) Reload(ctx context.Context) (director.Result, error) {
	return director.Result{Did: []string{"timeouts: changed"}}, s.note("reload")
}

func (s *stub) SetWeight(_ context.Context, service, real string, w *uint16) (director.Result, error) {
	err := s.note("weight " + service + " " + real)
	s.weight = w
	return director.Result{Did: []string{"web 10.0.0.11: weight 5 (configured 1)"}, Warning: "not stored"}, err
}

func (s *stub) DrainDirector(_ context.Context, undo bool) (director.Result, error) {
	call := "drain director"
	if undo {
		call = "undo director"
	}
	return director.Result{Did: []string{"director: drained"}}, s.note(call)
}

func (s *stub) Drain(_ context.Context, service, real string, o director.DrainOptions) (director.Result, error) {
	call := "drain "
	if o.Undo {
		call = "undo "
	}
	return director.Result{Did: []string{"web 10.0.0.11: drained"}}, s.note(call + service + " " + real)
}

var (
	real1 = netip.MustParseAddr("10.0.0.11")
	real2 = netip.MustParseAddr("2001:db8::12")
)

// newStub has one service with a healthy real and a down one, whose reason
// is not to be trusted.
func newStub() *stub {
	now := time.Unix(1_700_000_000, 0).UTC()
	return &stub{
		status: director.Status{
			Version: "1.2.3", Backend: "xdp", Mode: "native", Started: now, Now: now.Add(90 * time.Second), Faults: 3,
			Reload: director.ReloadStatus{At: now},
			VRRP: []director.VRRPStatus{{
				Instance: "VI_1", Role: "MASTER", Priority: 100, Since: now, Why: "no master heard",
				Dropped: map[string]uint64{"auth": 7}, Changes: 4,
			}},
			VIPs:     []director.VIPStatus{{Addr: netip.MustParseAddr("10.0.0.100"), Held: true, Instance: "VI_1"}},
			Warnings: []warnings.Warning{{Kind: "file", Subject: "/x", Text: "not \x1b[31mstored", Cure: "make room", Since: now}},
			Messages: director.Messages{Delivered: 9, Failed: 2},
			Services: []director.ServiceStatus{{
				Name: "web", State: "up", Scheduler: "wrr", Listeners: []string{"10.0.0.100:80/tcp"},
				Reals: []director.RealStatus{
					{Addr: real1, State: "up", Weight: 3, Since: now, Checks: 1, CheckTook: 0.25, Active: 4},
					{Addr: real2, Port: 81, State: "down", Weight: 1, Reason: "banner <script>alert(1)</script>\x1b[31m"},
				},
				Quorum: true,
			}, {Name: "closed", State: "sorry", Scheduler: "rr", Sorry: "127.0.0.1", Listeners: []string{"10.0.0.100:81/tcp"}}},
			Verdicts: []director.VerdictCount{{Name: "forwarded", Meaning: "sent to its real", Count: 20}},
			Tables:   []director.TableStatus{{Name: "flows", Used: 9, Capacity: 1000}},
		},
		events: []history.Event{{Time: now, Kind: history.Operator, Subject: "web", Text: "drained"}},
		listing: director.Listing{
			Services: []lb.Service{{Name: "web", Persistence: lb.Persistence{Timeout: time.Minute}, Reals: []lb.Real{{Addr: real1, Weight: 3}}}},
			Rates:    []lb.ServiceRates{{Name: "web", Rates: lb.Rates{CPS: 3}, Reals: []lb.RealRates{{Addr: real1, Rates: lb.Rates{CPS: 3}}}}},
			Stats: lb.Stats{
				Services: []lb.ServiceStats{{
					Name: "web", Counters: lb.Counters{Conns: 10, InPkts: 20, InBytes: 800},
					Reals: []lb.RealStats{{Addr: real1, Active: 4, Inactive: 5, Persist: 6, Counters: lb.Counters{Conns: 10, InPkts: 20, InBytes: 800}}},
				}},
				Verdicts: []lb.Verdict{{Name: "forwarded", Count: 20}},
				Flows:    lb.TableStats{Capacity: 1000, Used: 9, Evicted: map[string]uint64{"half_open": 2}},
			},
			Connections: []lb.Connection{{Service: "web", Proto: lb.TCP, Client: netip.MustParseAddrPort("172.16.0.5:1024"), Expires: time.Minute}},
		},
	}
}

// start runs a server on a socket of its own until the test ends.
func start(t *testing.T, opt Options) (socket string) {
	t.Helper()
	if opt.Socket == "" {
		opt.Socket = filepath.Join(t.TempDir(), "lvx.sock")
	}
	ctx, cancel := context.WithCancel(context.Background())
	res := make(chan error, 1)
	s := NewServer(opt)
	go func() { res <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-res; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-s.Up():
	case err := <-res:
		res <- nil
		t.Fatalf("not up: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("not up after a minute")
	}
	return opt.Socket
}
