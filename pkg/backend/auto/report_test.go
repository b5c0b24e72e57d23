package auto

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestObserved(t *testing.T) {
	h := newHost(t, nil, forwards)
	h.apply(service("a", 80, lb.DR, 11))
	o, err := h.Observed()
	if err != nil || o.Backend != "fake" || o.Detail != "no packet leaves this process" {
		t.Errorf("without IPVS: %+v, %v", o, err)
	}
	h.apply(service("z", 81, lb.NAT, 12), service("a", 80, lb.DR, 11), service("t", 82, lb.Tunnel, 12))
	o, err = h.Observed()
	if err != nil || o.Backend != "fake+fake" || o.Mode != "memory+memory" {
		t.Errorf("with both: %+v, %v", o, err)
	}
	var got []string
	for _, s := range o.Services {
		got = append(got, s.Name+": "+s.Reason)
	}
	if want := []string{"z: forward nat", "a: ", "t: forward tunnel"}; !slices.Equal(got, want) {
		t.Errorf("services %q, want %q", got, want)
	}
}

func TestRefused(t *testing.T) {
	h := newHost(t, errors.New("native and generic XDP refused: operation not supported"), nil)
	h.apply(service("a", 80, lb.DR, 11))
	o, err := h.Observed()
	if err != nil || len(o.Services) != 1 || o.Services[0].Reason != "native and generic XDP refused: operation not supported" {
		t.Errorf("%+v, %v", o, err)
	}
	if err := h.Renew(0, time.Second); err != nil {
		t.Error(err)
	}
	if h.LeaseLeft(0) != 0 {
		t.Error("a lease without XDP")
	}
	e, err := h.Explain(lb.Packet{Proto: lb.TCP, Src: h.src(1), Dst: h.dst(80)})
	if err != nil || e.Service != "a" {
		t.Errorf("explain: %+v, %v", e, err)
	}
}

// Tunnels that the kernel makes come from the host's own address, and the reason says so.
func TestOuterSourceNeedsXDP(t *testing.T) {
	const elsewhere = "; its tunnels come from this host's own address, not from outer_source"
	h := newHost(t, nil, forwards)
	bySorry := service("s", 83, lb.NAT, 13)
	bySorry.Sorry, bySorry.SorryForward = bySorry.Reals[0].Addr.Next(), lb.Tunnel
	for _, x := range []struct {
		from string
		want []string
	}{
		{"2001:db8::1/128", []string{"forward nat", "forward tunnel", "forward nat"}},
		{"192.0.2.0/24", []string{"forward nat", "forward tunnel" + elsewhere, "forward nat" + elsewhere}},
	} {
		state := lb.State{
			OuterSources: []netip.Prefix{netip.MustParsePrefix(x.from)},
			Services:     []lb.Service{service("z", 81, lb.NAT, 12), service("t", 82, lb.Tunnel, 12), bySorry},
		}
		if err := h.Backend.Apply(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		o, err := h.Observed()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range o.Services {
			got = append(got, s.Reason)
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("from %s: reasons %q, want %q", x.from, got, x.want)
		}
	}
}

// TestStats: counters are those of the place; connections those of both.
func TestStats(t *testing.T) {
	h := newHost(t, nil, forwards)
	web := service("web", 80, lb.DR, 11)
	h.apply(web, service("nat", 81, lb.NAT, 11))
	h.send(1, 80, "S")
	h.send(2, 80, "S")
	h.send(1, 81, "S")
	web.Reals[0].Forward = lb.NAT
	h.apply(web, service("nat", 81, lb.NAT, 11))
	h.send(3, 80, "S")
	st, err := h.Stats()
	if err != nil || len(st.Services) != 2 || st.Services[0].Name != "web" || st.Services[1].Name != "nat" {
		t.Fatalf("%+v, %v", st, err)
	}
	if s := st.Services[0]; s.Conns != 1 || s.Reals[0].Conns != 1 || s.Reals[0].Active != 3 {
		t.Errorf("web: %+v", s)
	}
	if st.Flows.Used != 4 || st.Flows.Capacity != 1<<20 {
		t.Errorf("flows: %+v", st.Flows)
	}
	for _, v := range st.Verdicts {
		if v.Name == "forwarded" && v.Count != 4 {
			t.Errorf("forwarded: %d, want 4", v.Count)
		}
	}
	for limit, want := range map[int]int{0: 4, 1: 1, 2: 2, 3: 3, 9: 4} {
		if all, err := h.Connections(limit); err != nil || len(all) != want {
			t.Errorf("limit %d: %d connections, %v", limit, len(all), err)
		}
	}
}

func TestExplain(t *testing.T) {
	h := newHost(t, nil, forwards)
	h.apply(service("web", 80, lb.DR, 11))
	h.explained(82, "no_listener", "", "")
	h.apply(service("web", 80, lb.DR, 11), service("nat", 81, lb.NAT, 12))
	h.explained(80, "forwarded", "web", "10.0.0.11")
	h.explained(81, "forwarded", "nat", "10.0.0.12")
	h.explained(82, "no_listener", "", "")
	e, err := h.Explain(lb.Packet{Proto: lb.TCP, Src: h.src(1), Dst: h.dst(81), Flags: "S"})
	if err != nil || !strings.Contains(strings.Join(e.Steps, "\n"), "the kernel's IPVS has the service nat: forward nat") {
		t.Errorf("steps %q, %v", e.Steps, err)
	}
	if _, err := New(Options{Refused: errors.New("no")}).Explain(lb.Packet{}); err == nil {
		t.Error("explained without any data path")
	}
}

func (h *host) explained(port uint16, verdict, service, real string) {
	h.t.Helper()
	e, err := h.Explain(lb.Packet{Proto: lb.TCP, Src: h.src(1), Dst: h.dst(port), Flags: "S"})
	if err != nil || e.Verdict != verdict || e.Service != service || e.Real != real {
		h.t.Errorf("port %d: %+v, %v", port, e, err)
	}
}

// TestRandomMoves: whatever moves at once, there is no moment in which a
// service that was there and will be there is nowhere, a new connection finds
// its service at the right place, and what both report is in order.
func TestRandomMoves(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		h := newHost(t, nil, forwards)
		var before, next []lb.Service
		check := func(*part) {
			for _, s := range next {
				stays := slices.ContainsFunc(before, func(o lb.Service) bool {
					return o.Name == s.Name && slices.Equal(o.Listeners, s.Listeners)
				})
				if stays && !listens(h.xdp, s.Name) && !listens(h.ipvs, s.Name) {
					r.Fatalf("%s is nowhere: XDP %q, IPVS %q", s.Name, h.xdp.names(), h.ipvs.names())
				}
			}
		}
		h.xdp.applied, h.ipvs.applied = check, check
		port := uint16(1)
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			next = draw(r)
			if err := h.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: next}); err != nil {
				r.Fatal(err)
			}
			before = next
			o, err := h.Observed()
			if err != nil || len(o.Services) != len(next) {
				r.Fatalf("observed %d services of %d, %v", len(o.Services), len(next), err)
			}
			for i, s := range next {
				want := ""
				if s.Reals[0].Forward != lb.DR {
					want = "forward " + s.Reals[0].Forward.String()
				}
				if o.Services[i].Name != s.Name || o.Services[i].Reason != want {
					r.Fatalf("observed %+v, want %s (%s)", o.Services[i], s.Name, want)
				}
				port++
				if got := h.send(port, s.Listeners[0].First, "S"); got == 0 {
					r.Fatalf("%s serves nobody", s.Name)
				}
			}
		}
	})
}

func listens(p *part, name string) bool {
	return slices.ContainsFunc(p.now, func(s lb.Service) bool { return s.Name == name && len(s.Listeners) > 0 })
}

// draw draws services on distinct ports, forwarded in any way.
func draw(r *rapid.T) []lb.Service {
	ports := rapid.Permutation([]uint16{80, 81, 82, 83, 84}).Draw(r, "ports")
	var all []lb.Service
	for i := range rapid.IntRange(0, 5).Draw(r, "services") {
		f := rapid.SampledFrom([]lb.Forward{lb.DR, lb.NAT, lb.Tunnel}).Draw(r, "forward")
		all = append(all, service(fmt.Sprint("s", i), ports[i], f, 11, 12))
	}
	return all
}
