package config

import (
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// compareSync looks for connections that are told to no other director: those of
// which the real is of another family than the VIP.
func compareSync(o *object, services []service) {
	if !o.has("sync") {
		return
	}
	for i := range services {
		s := &services[i]
		if j := s.realOfOtherFamily(); j >= 0 {
			s.object.at("reals").warnf("connections to %s, which is of another family than the VIP, are not told to other directors (sync: an entry has one family), and kernel IPVS starts no sync daemon beside such a real", s.Reals[j].Addr)
		}
	}
}

// realOfOtherFamily is the first real of another family than a VIP, -1 without one.
func (s *Service) realOfOtherFamily() int {
	return slices.IndexFunc(s.Reals, func(r lb.Real) bool {
		return slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool { return l.Addr.Is4() != r.Addr.Is4() })
	})
}
