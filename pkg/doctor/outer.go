package doctor

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// examineOuterSources looks whether what routers send to the addresses that tunnels come
// from would be for this host: errors about tunnels, of which clients hear through the
// daemon.
func (e *exam) examineOuterSources() {
	for _, from := range e.Config.OuterSources {
		if !e.hasTunnelFrom(from) {
			continue
		}
		for _, a := range someOf(from) {
			// Without a route it is not this host's either.
			if route, err := e.host.Route(a); err != nil || !route.IsLocal {
				e.add(ForeignSource, "outer_source "+from.String(),
					a.String()+" is not this host's: errors of routers about tunnels do not come back, and clients are not told of ways that are too narrow",
					"ip route add local "+from.String()+" dev lo, and have the routers send it to this host")
				break
			}
		}
	}
}

// hasTunnelFrom reports whether XDP makes tunnels to reals of the family.
func (e *exam) hasTunnelFrom(from netip.Prefix) bool {
	return e.Config.Backend != config.BackendIPVS && slices.ContainsFunc(e.Config.Services, func(svc config.Service) bool {
		return !e.OnIPVS[svc.Name] && slices.ContainsFunc(svc.Reals, func(r lb.Real) bool {
			return r.Forward == lb.Tunnel && r.Addr.Is4() == from.Addr().Is4()
		})
	})
}

// someOf are two addresses of a network, if it has so many hosts: one alone may be the
// host's own.
func someOf(p netip.Prefix) []netip.Addr {
	if p.IsSingleIP() {
		return []netip.Addr{p.Addr()}
	}
	first := p.Addr().Next()
	if second := first.Next(); p.Contains(second) {
		return []netip.Addr{first, second}
	}
	return []netip.Addr{p.Addr(), first}
}
