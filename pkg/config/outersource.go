package config

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// outerSources reads where the outer headers of tunnels come from.
func outerSources(c *cursor) []netip.Prefix {
	var of [2]netip.Prefix
	return list(func(c *cursor) netip.Prefix {
		p := network(c)
		if !p.IsValid() {
			return p
		}
		family, other := "IPv4", &of[0]
		if p.Addr().Is6() {
			family, other = "IPv6", &of[1]
		}
		switch a := p.Addr(); {
		case other.IsValid():
			c.errorf("%s beside %s (want one of %s)", p, *other, family)
		case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			c.errorf("%s names no host of the network (want an address, or a network of addresses, that tunnels may come from)", p)
		}
		*other = p
		return p
	})(c)
}

// compareOuterSources looks for tunnels that do not take notice of it.
func compareOuterSources(o *object, backend Backend, services []service) {
	if !o.has("outer_source") {
		return
	}
	at := o.at("outer_source")
	if backend == BackendIPVS {
		at.warnf("outer_source has no effect with backend: ipvs, whose tunnels come from this host's own address")
		return
	}
	for i := range services {
		s := &services[i]
		if s.hasTunnelChecksum() {
			s.object.at("reals").warnf("tunnels with a checksum come from this host's own address, not from outer_source: the kernel's IPVS makes them")
		}
	}
}

// hasTunnelChecksum reports whether a tunnel to a real has a checksum.
func (s *Service) hasTunnelChecksum() bool {
	return slices.ContainsFunc(s.Reals, func(r lb.Real) bool { return r.Encap.Checksum != lb.NoChecksum })
}
