package xdp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// needsKernel says of schedulers why they run on kernel IPVS. lblc and lblcr are
// for caches behind a transparent proxy: they remember a real, or a set of
// reals, for each of very many destination addresses. A service of XDP listens
// on VIPs, which are few. What twos draws nobody can explain afterwards.
var needsKernel = map[lb.Scheduler]string{
	lb.LBLC:  "scheduler lblc remembers destinations",
	lb.LBLCR: "scheduler lblcr remembers destinations",
	lb.TWOS:  "scheduler twos draws reals at random",
}

// layRing builds the ring of a service if its reals or scheduler changed.
// Reals that cannot be reached are not in it; quiesced ones are where the
// kernel's tables have them, but have no rows of a stateless service: its rows
// are for new clients, who would find nobody there.
func (b *Backend) layRing(s *service) error {
	s.strand()
	in := make([]sched.Real, 0, len(s.conf.Reals))
	some, isStateless := false, s.conf.KeepsNoFlows()
	for _, c := range s.conf.Reals {
		r := s.reals[c.Key()]
		if !r.isReachable() || isStateless && c.Weight == 0 {
			continue
		}
		some = some || c.Weight > 0
		in = append(in, sched.Real{ID: r.slot, Weight: c.Weight, Addr: s.hashedAddr(c), Port: s.hashedPort(c)})
	}
	if !some {
		s.entry.RingSize = 0
	}
	same := s.ring != nil && isStateless == (s.rowsIn() > 0) && s.ring.Scheduler == string(s.conf.Scheduler) &&
		s.ring.Flags == sched.Flags(s.conf.Flags) && slices.Equal(in, s.inRing)
	if !same {
		picks := load64(&b.dp.Cursors[s.index].Picks) - s.since
		ring, err := sched.Build(string(s.conf.Scheduler), sched.Flags(s.conf.Flags), in, s.ring, picks)
		if err != nil {
			return fmt.Errorf("service %s: %w", s.conf.Name, err)
		}
		if err := b.writeRing(s, ring); err != nil {
			return err
		}
		s.ring, s.inRing = ring, in
	}
	if some {
		s.entry.RingSize = uint32(len(s.ring.Slots))
		s.entry.RingReals = uint32(len(in))
	}
	return nil
}

// hashedAddr is the address of a real that mh hashes. The kernel takes it for one of the
// service's family (ip_vs_mh_hashkey): of one of IPv6 behind a VIP of IPv4 its first word.
func (s *service) hashedAddr(r lb.Real) netip.Addr {
	if r.Addr.Is6() && !s.conf.IsIPv6() {
		b := r.Addr.As16()
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return r.Addr
}

// hashedPort is the port of a real that mh hashes. For the others it is 0: a
// listener that changes must not look like an edit of the reals.
func (s *service) hashedPort(r lb.Real) uint16 {
	switch {
	case s.conf.Scheduler != lb.MH:
		return 0
	case r.Port == 0 && !s.conf.ByMark():
		return s.conf.Listeners[0].First
	}
	return r.Port
}

// writeRing copies a ring into free lines; the old ones are given back after
// a grace period.
func (b *Backend) writeRing(s *service, ring *sched.Ring) error {
	if err := b.fail("ring"); err != nil {
		return fmt.Errorf("service %s: %w", s.conf.Name, err)
	}
	if s.conf.KeepsNoFlows() {
		if err := b.layRows(s, ring); err != nil {
			return fmt.Errorf("service %s: %w", s.conf.Name, err)
		}
		return nil
	}
	at, err := b.rings.take(linesOf(ring))
	if err != nil && len(ring.Slots) > 0 {
		return fmt.Errorf("service %s: %w", s.conf.Name, err)
	}
	for i, slot := range ring.Slots {
		b.dp.Rings[at.at+uint32(i/bpf.RingLineSlots)].Real[i%bpf.RingLineSlots] = slot
	}
	b.ringsToRetire = append(b.ringsToRetire, s.span)
	s.span = at
	s.entry.Ring, s.entry.Rows = at.at, 0
	s.since = load64(&b.dp.Cursors[s.index].Picks)
	if n := uint64(len(ring.Slots)); n > 0 {
		s.entry.Start = uint32((uint64(ring.Next) + n - s.since%n) % n)
	}
	return nil
}

// linesOf is how many lines the slots of a ring fill.
func linesOf(r *sched.Ring) uint32 {
	return uint32(len(r.Slots)+bpf.RingLineSlots-1) / bpf.RingLineSlots
}
