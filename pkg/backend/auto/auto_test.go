package auto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/lb/lbtest"
)

// host is a composed backend on two fakes, one before the other, as packets
// meet them.
type host struct {
	*Backend
	t         *testing.T
	xdp, ipvs *part
	opened    int
	openErr   error
}

// part is one of the fakes. It tells the host of every Apply that succeeded.
type part struct {
	*lbtest.Fake
	name    string
	now     []lb.Service
	applied func(p *part)
	refused error // an Apply of any service fails with it
}

// Owned is what the kernel's IPVS remembers.
func (p *part) Owned() (names []string) {
	for _, s := range p.now {
		names = append(names, s.Name)
	}
	return names
}

func (p *part) Apply(ctx context.Context, s lb.State) error {
	if p.name == "ipvs" {
		s.VIPs = slices.Clone(s.VIPs)
		for i := range s.VIPs {
			s.VIPs[i].Leased = false // the kernel's IPVS has no leases
		}
	}
	if p.refused != nil && len(s.Services) > 0 {
		return p.refused
	}
	if err := p.Fake.Apply(ctx, s); err != nil {
		return err
	}
	p.now = s.Services
	if p.applied != nil {
		p.applied(p)
	}
	return nil
}

func (p *part) names() string {
	var names []string
	for _, s := range p.now {
		name := s.Name
		if len(s.Listeners) == 0 {
			name += "(drains)"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// newHost makes one; refused takes XDP away.
func newHost(t *testing.T, refused error, cannot func(lb.Service) string) *host {
	t.Helper()
	h := &host{t: t, ipvs: &part{Fake: lbtest.NewFake(), name: "ipvs"}}
	o := Options{Log: slog.New(slog.DiscardHandler), Refused: refused, Cannot: cannot, OpenIPVS: func(context.Context) (lb.Backend, error) {
		if h.openErr != nil {
			return nil, h.openErr
		}
		h.opened++
		return h.ipvs, nil
	}}
	if refused == nil {
		h.xdp = &part{Fake: lbtest.NewFake(), name: "xdp"}
		o.XDP = h.xdp
	}
	h.Backend = New(o)
	return h
}

// Send implements lbtest.Harness.
func (h *host) Send(p lb.Packet) lbtest.Outcome {
	var o lbtest.Outcome
	if h.xdp != nil {
		o = h.xdp.Send(p)
		if o.Verdict != "no_listener" && o.Verdict != "no_flow" && o.Verdict != "real_gone" {
			return o
		}
	}
	if h.opened == 0 {
		return o
	}
	return h.ipvs.Send(p)
}

// Damage implements lbtest.Harness.
func (h *host) Damage() error {
	var err error
	if h.xdp != nil {
		err = h.xdp.Damage()
	}
	if h.opened > 0 {
		err = h.ipvs.Damage()
	}
	return err
}

// silent is a host without its lease: the kernel's IPVS has none.
type silent struct{ lbtest.Harness }

func forwards(svc lb.Service) string {
	for _, r := range svc.Reals {
		if r.Forward != lb.DR {
			return "forward " + r.Forward.String()
		}
	}
	return ""
}

func TestBehaviour(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) lbtest.Harness{
		"all on XDP":  func(t *testing.T) lbtest.Harness { return newHost(t, nil, forwards) },
		"XDP refused": func(t *testing.T) lbtest.Harness { return silent{newHost(t, errors.New("no driver"), nil)} },
		"XDP can none": func(t *testing.T) lbtest.Harness {
			return silent{newHost(t, nil, func(lb.Service) string { return "x" })}
		},
		"mixed": func(t *testing.T) lbtest.Harness {
			return newHost(t, nil, func(s lb.Service) string {
				if s.Name != "web" {
					return "not web"
				}
				return ""
			})
		},
	} {
		t.Run(name, func(t *testing.T) { lbtest.Run(t, open) })
	}
}

var (
	vip     = netip.MustParseAddr("10.0.0.100")
	clients = netip.MustParseAddr("172.16.0.1")
)

func service(name string, port uint16, f lb.Forward, hosts ...byte) lb.Service {
	s := lb.Service{Name: name, Scheduler: lb.RR, Listeners: []lb.Listener{{Addr: vip, Proto: lb.TCP, First: port, Last: port}}}
	for _, h := range hosts {
		s.Reals = append(s.Reals, lb.Real{Addr: netip.AddrFrom4([4]byte{10, 0, 0, h}), Weight: 1, Forward: f})
	}
	return s
}

func (h *host) apply(services ...lb.Service) {
	h.t.Helper()
	if err := h.Apply(h.t.Context(), lb.State{ExpireNodestConn: true, Services: services}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) want(xdp, ipvs string) {
	h.t.Helper()
	if got := h.xdp.names(); got != xdp {
		h.t.Errorf("XDP holds %q, want %q", got, xdp)
	}
	if got := h.ipvs.names(); got != ipvs {
		h.t.Errorf("IPVS holds %q, want %q", got, ipvs)
	}
}

// send sends from a port of the one client and returns the host's number.
func (h *host) send(from, to uint16, flags string) byte {
	o := h.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(clients, from), Dst: netip.AddrPortFrom(vip, to), Flags: flags})
	if !o.Real.IsValid() {
		return 0
	}
	return o.Real.As4()[3]
}

// TestMove: a running service changes places both ways; no moment without a
// place, no connection lost, nothing left behind.
func TestMove(t *testing.T) {
	h := newHost(t, nil, forwards)
	h.apply(service("web", 80, lb.DR, 11, 12), service("mail", 25, lb.DR, 13))
	h.want("web mail", "")
	if h.opened != 0 {
		t.Error("IPVS was opened without need")
	}
	old := h.send(1, 80, "S")
	h.send(1, 80, "A")

	var order []string
	note := func(p *part) { order = append(order, p.name+": "+p.names()) }
	h.xdp.applied, h.ipvs.applied = note, note
	h.apply(service("web", 80, lb.NAT, 11, 12), service("mail", 25, lb.DR, 13))
	if want := []string{"ipvs: web", "xdp: mail web(drains)"}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	if got := h.send(1, 80, "A"); got != old {
		t.Errorf("the old connection went to %d, want %d", got, old)
	}
	if n := h.ipvs.Applied(); h.send(2, 80, "S") == 0 || len(n) != 1 {
		t.Error("a new connection is not served by IPVS")
	}
	h.send(2, 80, "A")
	h.send(1, 80, "R")
	h.apply(service("web", 80, lb.NAT, 11, 12), service("mail", 25, lb.DR, 13))
	h.want("mail web(drains)", "web") // CLOSE is a state of a connection too

	order = nil
	h.apply(service("web", 80, lb.DR, 11, 12), service("mail", 25, lb.DR, 13))
	if want := []string{"ipvs: web", "xdp: web mail"}; !slices.Equal(order, want) {
		t.Errorf("order on the way back %q, want %q", order, want)
	}
	if h.send(2, 80, "A") == 0 {
		t.Error("IPVS's connection is lost")
	}
	h.apply(service("mail", 25, lb.DR, 13))
	h.want("mail", "")
	if h.send(2, 80, "A") != 0 {
		t.Error("a removed service's connection lives")
	}
}

// TestIdleMove: without connections nothing stays where it was longer than
// until the next Apply.
func TestIdleMove(t *testing.T) {
	h := newHost(t, nil, forwards)
	dr, nat := service("web", 80, lb.DR, 11), service("web", 80, lb.NAT, 11)
	h.apply(dr)
	h.apply(nat)
	h.apply(nat)
	h.want("", "web")
	h.apply(dr)
	h.want("web", "")
}

// TestTaken: a service cannot stay where its address is somebody else's.
func TestTaken(t *testing.T) {
	h := newHost(t, nil, forwards)
	h.apply(service("web", 80, lb.NAT, 11))
	h.send(1, 80, "S")
	h.apply(service("web", 81, lb.DR, 11), service("other", 80, lb.NAT, 12))
	h.want("web", "other")
	marked := service("web", 81, lb.NAT, 11)
	marked.Mark = 7
	h.apply(marked)
	h.send(2, 81, "S")
	thief := service("thief", 82, lb.NAT, 12)
	thief.Mark = 7
	marked.Reals[0].Forward = lb.DR
	h.apply(marked, thief)
	h.want("web", "thief")
}

// TestRealGone: the place that was left does not send to a real that the
// service has no more.
func TestRealGone(t *testing.T) {
	h := newHost(t, nil, forwards)
	h.apply(service("web", 80, lb.DR, 11, 12))
	h.send(1, 80, "S")
	h.send(2, 80, "S") // one to each
	h.apply(service("web", 80, lb.NAT, 11))
	a, b := h.send(1, 80, "A"), h.send(2, 80, "A")
	if a+b != 11 {
		t.Errorf("connections go to %d and %d, want 11 and none", a, b)
	}
}

func TestOverlap(t *testing.T) {
	on := func(first, last uint16) lb.Listener { return lb.Listener{First: first, Last: last} }
	for _, c := range []struct {
		a, b lb.Listener
		want bool
	}{
		{on(80, 80), on(80, 80), true}, {on(80, 80), on(81, 81), false}, {on(0, 0), on(81, 81), true},
		{on(80, 90), on(90, 99), true}, {on(80, 90), on(91, 99), false}, {on(80, 90), on(85, 86), true},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("%v and %v: %v", c.a, c.b, !c.want)
		}
	}
}

// TestFailure: whoever cannot move stays, and the others get what is theirs.
func TestFailure(t *testing.T) {
	broken := errors.New("broken")
	dr, nat := service("web", 80, lb.DR, 11), service("web", 80, lb.NAT, 11)
	t.Run("IPVS missing", func(t *testing.T) {
		h := newHost(t, nil, forwards)
		h.openErr = broken
		h.apply(dr)
		err := h.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: []lb.Service{nat, service("new", 81, lb.DR, 12)}})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "needed for web (forward nat)") {
			t.Errorf("error %v", err)
		}
		h.want("web", "")
		h.openErr = nil
		h.apply(nat)
		h.want("web(drains)", "web")
	})
	t.Run("IPVS missing, and XDP lacks something", func(t *testing.T) {
		h := newHost(t, nil, forwards)
		tries, open := 0, h.opt.OpenIPVS
		h.opt.OpenIPVS = func(ctx context.Context) (lb.Backend, error) {
			tries++
			return open(ctx)
		}
		h.openErr = broken
		h.opt.Lacks = func(s lb.Service) string { return map[string]string{"web": "an interface"}[s.Name] }
		other := service("new", 81, lb.DR, 12)
		h.apply(dr, other)
		h.apply(dr, other)
		if h.want("web new", ""); tries != 1 {
			t.Errorf("IPVS was opened %d times", tries)
		}
		h.openErr = nil
		h.apply(dr, service("new", 81, lb.NAT, 12))
		h.apply(dr, service("new", 81, lb.NAT, 12))
		h.want("web(drains)", "web new")
		o, err := h.Observed()
		if err != nil || len(o.Services) != 2 || o.Services[0].Reason != "an interface" {
			t.Errorf("observed %+v, %v", o.Services, err)
		}
	})
	t.Run("IPVS fails", func(t *testing.T) {
		h := newHost(t, nil, forwards)
		h.apply(dr)
		h.ipvs.Fail(broken)
		err := h.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: []lb.Service{nat, service("new", 81, lb.DR, 12)}})
		if !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		h.want("new web", "")
		if got := h.send(1, 80, "S"); got != 11 {
			t.Errorf("web is not served where it was (%d)", got)
		}
		h.ipvs.Fail(nil)
		h.apply(nat, service("new", 81, lb.DR, 12))
		h.want("new web(drains)", "web")
	})
	t.Run("XDP fails", func(t *testing.T) {
		h := newHost(t, nil, forwards)
		h.apply(nat)
		h.xdp.Fail(broken)
		err := h.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: []lb.Service{dr, service("new", 81, lb.NAT, 12)}})
		if !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		h.want("", "new web")
		o, err := h.Observed()
		if err != nil || len(o.Services) != 2 || o.Services[0].Reason != "forward nat" {
			t.Errorf("observed %+v, %v", o.Services, err)
		}
		h.xdp.Fail(nil)
		h.apply(dr)
		h.want("web", "")
	})
	t.Run("many", func(t *testing.T) {
		h := newHost(t, nil, forwards)
		h.openErr = broken
		var all []lb.Service
		for i := range 20 {
			all = append(all, service(fmt.Sprint("s", i), uint16(i+1), lb.Tunnel, 11))
		}
		err := h.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: all})
		if err == nil || !strings.Contains(err.Error(), "s7 (forward tunnel) and 12 more: broken") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		h := newHost(t, nil, forwards)
		h.apply(nat)
		if err := h.Close(true); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*part{h.xdp, h.ipvs} {
			if closed, kept := p.Closed(); !closed || !kept {
				t.Errorf("%s: closed %v, kept %v", p.name, closed, kept)
			}
		}
		if h.Apply(t.Context(), lb.State{ExpireNodestConn: true}) == nil {
			t.Error("applied on a closed backend")
		}
	})
}

// TestLeftover: what an earlier daemon left in IPVS is cleared away, if that
// can be done; if not, it is no reason to fail.
func TestLeftover(t *testing.T) {
	h := newHost(t, nil, forwards)
	h.opt.Leftover = true
	h.apply(service("web", 80, lb.DR, 11))
	if h.opened != 1 || len(h.ipvs.Applied()) != 1 {
		t.Errorf("opened %d times, applied %d", h.opened, len(h.ipvs.Applied()))
	}
	h = newHost(t, nil, forwards)
	h.opt.Leftover, h.openErr = true, errors.New("no module")
	h.apply(service("web", 80, lb.DR, 11))
	h.apply(service("web", 80, lb.DR, 11))
	h.want("web", "")
}

// TestLeftoverMoves: what an earlier daemon had in IPVS and this one has on XDP stays
// in IPVS until XDP serves, and then for its connections, as within one daemon. If IPVS
// cannot hold it any more, it goes.
func TestLeftoverMoves(t *testing.T) {
	web, nat := service("web", 80, lb.DR, 11), service("web", 80, lb.NAT, 11)
	start := func(t *testing.T) (h *host, order *[]string) {
		earlier := newHost(t, nil, forwards)
		earlier.apply(nat, service("gone", 81, lb.NAT, 11))
		earlier.send(1, 80, "S")
		h = newHost(t, nil, forwards)
		h.ipvs, h.opt.Leftover, order = earlier.ipvs, true, new([]string)
		note := func(p *part) { *order = append(*order, p.name+": "+p.names()) }
		h.xdp.applied, h.ipvs.applied = note, note
		return h, order
	}
	h, order := start(t)
	h.apply(web)
	if want := []string{"ipvs: web", "xdp: web"}; !slices.Equal(*order, want) {
		t.Errorf("order %q, want %q", *order, want)
	}
	if h.send(1, 80, "A") != 11 || h.send(2, 80, "S") != 11 {
		t.Error("the old connection or a new one is not served")
	}
	h, order = start(t)
	h.ipvs.refused = errors.New("no such scheduler")
	h.apply(web)
	if want := []string{"ipvs: ", "xdp: web"}; !slices.Equal(*order, want) {
		t.Errorf("refused by IPVS: order %q, want %q", *order, want)
	}
}

func (h *host) src(port uint16) netip.AddrPort { return netip.AddrPortFrom(clients, port) }

func (h *host) dst(port uint16) netip.AddrPort { return netip.AddrPortFrom(vip, port) }
