package director

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// Targets lists what has to be asked for a configuration, each question
// once, in the order of the file. With probeVIP, checks that leave `via` to
// lvx are addressed to the VIP where that can work.
func Targets(cfg *config.Config, probeVIP bool) []health.Target {
	var all []health.Target
	seen := map[health.Target]bool{}
	for s := range cfg.Services { // by reference: there may be ten thousand
		svc := &cfg.Services[s]
		for i := range svc.Reals {
			for _, t := range targets(svc, i, probeVIP) {
				if !seen[t] {
					seen[t] = true
					all = append(all, t)
				}
			}
		}
	}
	return all
}

// targets are the questions about the i-th real of a service.
func targets(svc *config.Service, i int, probeVIP bool) []health.Target {
	if i >= len(svc.Checks) {
		return nil
	}
	ts := make([]health.Target, 0, len(svc.Checks[i]))
	for _, spec := range svc.Checks[i] {
		ts = append(ts, target(svc, svc.Reals[i], spec.WithDefaults(), probeVIP))
	}
	return ts
}

func target(svc *config.Service, r lb.Real, spec health.Spec, probeVIP bool) health.Target {
	if spec.Via == "" {
		spec.Via = health.ViaReal
		if probeVIP && canPassVIP(svc, r, spec) && !spec.Address.IsValid() {
			spec.Via = health.ViaVIP
		}
	}
	t := health.Target{Spec: spec, Real: r.Addr}
	if spec.Address.IsValid() {
		t.Real = spec.Address
	}
	if (spec.Via == health.ViaVIP || spec.Type == health.Exec) && len(svc.Listeners) > 0 {
		t.VIP = svc.Listeners[0].Addr // an exec check learns it
	}
	if spec.Via == health.ViaVIP {
		t.Forward, t.Encap = r.Forward, r.Encap
	}
	if spec.Type != health.ICMP && spec.Type != health.File && spec.Type != health.BFD {
		t.Port = checkPort(svc, r, spec)
	}
	return t
}

// canPassVIP reports whether a check can prove that the real serves the VIP:
// by direct routing and by tunnels.
func canPassVIP(svc *config.Service, r lb.Real, spec health.Spec) bool {
	return health.ThroughVIP(spec) && !r.Addr.IsLoopback() &&
		(r.Forward == lb.DR || r.Forward == lb.Tunnel) &&
		len(svc.Listeners) > 0
}

// checkPort is the check's own port, else the real's, else the first one
// that the service listens on.
func checkPort(svc *config.Service, r lb.Real, spec health.Spec) uint16 {
	if spec.Port != 0 {
		return spec.Port
	}
	if r.Port != 0 {
		return r.Port
	}
	for _, l := range svc.Listeners {
		if !l.EveryPort() {
			return l.First
		}
	}
	return 0
}

// servers are the real and sorry servers, whatever their health.
func servers(cfg *config.Config) []netip.Addr {
	addrs := unique{}
	for _, svc := range cfg.Services {
		for _, r := range svc.Reals {
			addrs.add(r.Addr)
		}
		if svc.Sorry.IsValid() {
			addrs.add(svc.Sorry)
		}
	}
	return addrs.list
}

// neighbours are all whose MACs the data path has to know: servers, and the
// peers, whose frames it must tell from a client's.
func neighbours(cfg *config.Config) []netip.Addr {
	addrs := unique{}
	for _, a := range slices.Concat(servers(cfg), peersOf(cfg)) {
		addrs.add(a)
	}
	return addrs.list
}

// peersOf are the other directors, as far as the configuration names them.
func peersOf(cfg *config.Config) []netip.Addr {
	addrs := unique{}
	for _, a := range cfg.Peers {
		addrs.add(a)
	}
	for _, inst := range cfg.VRRP {
		for _, a := range inst.UnicastPeers {
			addrs.add(a)
		}
	}
	return addrs.list
}

// sameAddresses reports whether two configurations name the same VIPs, servers
// and directors in the same places, with the same MACs, and claim the VIPs alike.
func sameAddresses(a, b *config.Config) bool {
	same := func(a, b *config.Service) bool {
		return a.Sorry == b.Sorry && a.ForceClaim == b.ForceClaim && slices.EqualFunc(a.Reals, b.Reals, lb.Real.Same) && slices.Equal(a.Listeners, b.Listeners)
	}
	if len(a.Services) != len(b.Services) || !slices.Equal(peersOf(a), peersOf(b)) || !maps.Equal(a.MACs, b.MACs) ||
		!slices.EqualFunc(a.VRRP, b.VRRP, func(a, b vrrp.Instance) bool { return slices.Equal(a.Addresses, b.Addresses) }) {
		return false
	}
	for i := range a.Services {
		if !same(&a.Services[i], &b.Services[i]) {
			return false
		}
	}
	return true
}

// unique is a list of addresses, each once.
type unique struct {
	list []netip.Addr
	seen map[netip.Addr]bool
}

func (u *unique) add(a netip.Addr) {
	if u.seen == nil {
		u.seen = map[netip.Addr]bool{}
	}
	if !u.seen[a] {
		u.seen[a] = true
		u.list = append(u.list, a)
	}
}
