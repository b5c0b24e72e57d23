package config

import "github.com/lvx-lb/lvx/pkg/lb"

// compareStateless looks for what needs connections in a service that keeps none.
func (s *service) compareStateless(backend Backend) {
	if !s.Stateless {
		return
	}
	at := s.object.at("stateless")
	switch {
	case s.Scheduler != lb.MH && s.Scheduler != lb.SH:
		at.errorf("stateless with the scheduler %s (want mh or sh: the others need connections)", s.Scheduler)
	case s.Persistence.Enabled():
		at.errorf("stateless with persistence (want one of them; without mh-port or sh-port a client stays with its real server anyway)")
	case s.OnePacket:
		at.errorf("stateless with ops (want one of them)")
	case backend == BackendIPVS:
		at.warnf("stateless has no effect with backend: ipvs, which keeps connections")
	}
}

// fitStateless looks for the same in a real server.
func (s *service) fitStateless(r *real) {
	if s.Stateless && r.Forward == lb.NAT {
		r.forwards.errorf("nat of a stateless service (want dr or a tunnel: nat needs connections)")
	}
	if s.Stateless && r.Encap.Checksum != lb.NoChecksum {
		r.forwards.errorf("%s with %s of a stateless service (want nocsum: kernel IPVS, which makes these tunnels, keeps connections)", r.Way(), r.Encap.Checksum)
	}
	if s.Stateless && r.Upper != 0 {
		r.object.at("upper_threshold").errorf("%d of a stateless service (want no threshold: it does not count connections)", r.Upper)
	}
}
