package lbtest

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// fakeService is a service with the scheduler's memory.
type fakeService struct {
	svc    lb.Service
	pos    int // last real chosen, as an index of walk(); -1 = before the first
	cw     int // wrr: the weight that a real must reach in this pass
	total  lb.Counters
	counts map[netip.AddrPort]*lb.Counters
}

// update takes a new configuration. A rotation keeps its place: after the
// real that was chosen last, or after the one before it if that is gone.
func (s *fakeService) update(svc lb.Service) {
	if reflect.DeepEqual(s.svc, svc) {
		return
	}
	old := s.walk()
	s.svc = svc
	if svc.Scheduler != lb.RR {
		s.changed()
		return
	}
	pos := -1
	for i := s.pos; i >= 0 && pos < 0; i-- {
		pos = slices.IndexFunc(s.walk(), old[i].Same)
	}
	s.pos = pos
}

// changed restarts the wrr walk at the head, as the kernel does when a
// destination changes; the pass it was in goes on as far as it can.
func (s *fakeService) changed() {
	if s.svc.Scheduler == lb.RR {
		s.pos = min(s.pos, len(s.svc.Reals)-1)
		return
	}
	top, step := s.weights()
	s.pos = -1
	s.cw = min(s.cw, top)
	if step > 1 {
		s.cw = s.cw/step*step + 1
	}
	s.cw = max(s.cw, 1)
}

// walk is the kernel's list: the order of the file, last first.
func (s *fakeService) walk() []lb.Real {
	rs := slices.Clone(s.svc.Reals)
	slices.Reverse(rs)
	return rs
}

// weights are the wrr walk's highest pass and the step between passes.
func (s *fakeService) weights() (top, step int) {
	for _, r := range s.svc.Reals {
		top = max(top, int(r.Weight))
		step = gcd(int(r.Weight), step)
	}
	return top - max(step-1, 0), max(step, 1)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (s *fakeService) has(real netip.AddrPort) bool {
	return slices.ContainsFunc(s.svc.Reals, func(r lb.Real) bool { return r.Key() == real })
}

// accepts reports whether a template may still send its client to real.
func (s *fakeService) accepts(real netip.AddrPort, expireQuiescent bool) bool {
	i := slices.IndexFunc(s.svc.Reals, func(r lb.Real) bool { return r.Key() == real })
	return i >= 0 && (s.svc.Reals[i].Weight > 0 || !expireQuiescent)
}

func (s *fakeService) usable(mac map[netip.Addr]string) bool {
	return slices.ContainsFunc(s.svc.Reals, func(r lb.Real) bool { return r.Weight > 0 && mac[r.Addr] == "" })
}

// schedule picks a real for a new connection.
func (s *fakeService) schedule(p lb.Packet, mac map[netip.Addr]string) (lb.Real, bool) {
	if !s.usable(mac) {
		return lb.Real{}, false
	}
	switch s.svc.Scheduler {
	case lb.RR:
		return s.roundRobin(mac), true
	case lb.SH:
		r := s.bucket(p)
		return r, r.Weight > 0 && mac[r.Addr] == ""
	}
	return s.weighted(mac), true
}

func (s *fakeService) roundRobin(mac map[netip.Addr]string) lb.Real {
	rs := s.walk()
	for {
		s.pos = (s.pos + 1) % len(rs)
		if r := rs[s.pos]; r.Weight > 0 && mac[r.Addr] == "" {
			return r
		}
	}
}

// weighted is the kernel's gcd/max-weight walk: passes over the list, each
// asking for less weight than the one before.
func (s *fakeService) weighted(mac map[netip.Addr]string) lb.Real {
	rs := s.walk()
	top, step := s.weights()
	for {
		if s.pos++; s.pos == len(rs) {
			s.pos = 0
			if s.cw -= step; s.cw <= 0 {
				s.cw = top
			}
		}
		if r := rs[s.pos]; r.Weight > 0 && int(r.Weight) >= s.cw && mac[r.Addr] == "" {
			return r
		}
	}
}

// bucket is source hashing: 256 buckets, filled by weight round the list.
func (s *fakeService) bucket(p lb.Packet) lb.Real {
	addr := p.Src.Addr().As16()
	sum := binary.BigEndian.Uint32(addr[12:])
	if s.svc.Flags&lb.SHPort != 0 {
		sum += uint32(p.Src.Port())
	}
	want := int(sum * 0x61C88647 >> 24)
	rs := s.walk()
	for i := 0; ; i++ {
		r := rs[i%len(rs)]
		if want -= max(int(r.Weight), 1); want < 0 {
			return r
		}
	}
}

// count counts one TCP packet without payload.
func (s *fakeService) count(real netip.AddrPort, conns uint64) {
	c := s.counts[real]
	if c == nil {
		c = &lb.Counters{}
		s.counts[real] = c
	}
	for _, c := range []*lb.Counters{c, &s.total} {
		c.Conns += conns
		c.InPkts++
		c.InBytes += 40
	}
}
