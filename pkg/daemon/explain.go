package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Tables of a packet path that only explains.
const (
	explainFlows = 1024
	explainLease = time.Hour
)

// ExplainConfig says what would happen to a packet under a configuration that
// is not in force: the packet goes through a packet path of its own, which is
// attached to nothing, on which every real is up and reachable, this host
// is master of every virtual router, and no connection is known.
func ExplainConfig(ctx context.Context, cfg *config.Config, p lb.Packet) (lb.Explanation, error) {
	state, other := imagineState(cfg)
	if svc, ok := findElsewhere(other, p); ok {
		return lb.Explanation{Verdict: "ipvs", Service: svc.service, Steps: []string{
			"as if every real server were up and no connection known",
			fmt.Sprintf("service %q listens there; the kernel's IPVS serves it: %s", svc.service, svc.reason),
		}}, nil
	}
	b, err := xdp.Open(ctx, xdp.Options{
		Log: slog.New(slog.DiscardHandler), Interfaces: cfg.Interfaces, Detached: true,
		Flows: explainFlows, Templates: explainFlows, Neighbors: newImaginedSegment(cfg), IPv6: servesIPv6(cfg),
		Room: xdp.RoomFor(state.Services),
	})
	if err != nil {
		return lb.Explanation{}, err
	}
	defer b.Close(false)
	if err := b.Apply(ctx, state); err != nil {
		return lb.Explanation{}, err
	}
	for _, v := range state.VIPs {
		if v.Leased {
			if err := b.Renew(v.Lease, explainLease); err != nil {
				return lb.Explanation{}, err
			}
		}
	}
	e, err := b.Explain(p)
	if err != nil {
		return e, err
	}
	e.Steps = append([]string{"as if every real server were up and no connection known"}, e.Steps...)
	return e, nil
}

// elsewhere is a service that XDP does not serve, for a reason.
type elsewhere struct {
	listeners       []lb.Listener
	service, reason string
}

// findElsewhere finds the service of a packet among those that XDP does not serve.
func findElsewhere(services []elsewhere, p lb.Packet) (elsewhere, bool) {
	for _, s := range services {
		for _, l := range s.listeners {
			if l.Addr == p.Dst.Addr() && l.Proto == p.Proto && l.Contains(p.Dst.Port()) {
				return s, true
			}
		}
	}
	return elsewhere{}, false
}

// imagineState is what XDP would hold with every real up and every virtual
// router master here, and what XDP would not serve.
func imagineState(cfg *config.Config) (lb.State, []elsewhere) {
	imagined := *cfg
	imagined.Services = nil
	var other []elsewhere
	for _, svc := range cfg.Services {
		if backend, why := RunsOn(cfg, svc.Service, nil); backend != "xdp" {
			if why == "" {
				why = "backend: ipvs"
			}
			other = append(other, elsewhere{svc.Listeners, svc.Name, why})
			continue
		}
		svc.Checks = nil
		imagined.Services = append(imagined.Services, svc)
	}
	active := map[string]bool{}
	for _, inst := range cfg.VRRP {
		active[inst.Name] = true
	}
	return director.Plan(director.Input{Config: &imagined, Active: active}).State, other
}

// imaginedSegment is a network on which every address is reachable, by the
// interface that has its prefix, or else by the first one.
type imaginedSegment struct {
	local []netip.Addr
	ways  []way
	macs  map[netip.Addr][6]byte
}

type way struct {
	link     net.Interface
	prefixes []netip.Prefix
}

func newImaginedSegment(cfg *config.Config) *imaginedSegment {
	s := &imaginedSegment{macs: cfg.MACs}
	links, _ := net.Interfaces()
	for _, link := range links {
		w := way{link: link}
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				s.local = append(s.local, p.Addr())
				w.prefixes = append(w.prefixes, p.Masked())
			}
		}
		switch {
		case len(link.HardwareAddr) != 6:
		case link.Name == cfg.Interfaces[0]:
			s.ways = append([]way{w}, s.ways...)
		default:
			s.ways = append(s.ways, w)
		}
	}
	return s
}

// Version implements [xdp.Neighbors]: nothing changes.
func (s *imaginedSegment) Version() uint64 { return 1 }

// Routes implements [xdp.Neighbors]: the kernel of this host is asked.
func (s *imaginedSegment) Routes() []xdp.Route { return nil }

// Lookup implements [xdp.Neighbors].
func (s *imaginedSegment) Lookup(a netip.Addr) xdp.Neighbor {
	if a.IsLoopback() {
		return xdp.Neighbor{Local: true}
	}
	for _, own := range s.local {
		if own == a {
			return xdp.Neighbor{Local: true}
		}
	}
	if len(s.ways) == 0 {
		return xdp.Neighbor{Err: "this host has no Ethernet interface"}
	}
	out := s.ways[0]
	for _, w := range s.ways {
		for _, p := range w.prefixes {
			if p.Contains(a) {
				out = w
			}
		}
	}
	mac, known := s.macs[a]
	if !known {
		low := a.As16()
		mac = [6]byte{2, 0, low[12], low[13], low[14], low[15]}
	}
	return xdp.Neighbor{
		MAC: mac, Source: [6]byte(out.link.HardwareAddr), IfIndex: out.link.Index, Device: out.link.Name, MTU: out.link.MTU,
	}
}
