package xdp

import (
	"net/netip"
	"slices"
)

// undo is what takes a preparation back, first step first.
type undo []func()

func (u *undo) add(step func()) { *u = append(*u, step) }

// run takes everything back, last step first.
func (u undo) run() {
	for _, step := range slices.Backward(u) {
		step()
	}
}

// remember notes the record of a service. restore makes the record what it
// was and gives back the slots and the ring that were taken since; packets have
// not seen them.
func (b *Backend) remember(s *service) (restore func()) {
	before := *s
	reals := make(map[netip.AddrPort]real, len(s.reals))
	for k, r := range s.reals {
		reals[k] = *r
	}
	retiring := len(b.ringsToRetire)
	return func() {
		if s.span != before.span {
			b.rings.give(s.span)
			i := retiring + slices.Index(b.ringsToRetire[retiring:], before.span)
			b.ringsToRetire = slices.Delete(b.ringsToRetire, i, i+1)
		}
		for k, r := range s.reals {
			if was, ok := reals[k]; ok {
				*r = was
				continue
			}
			b.slots.give(r.slot)
			delete(s.reals, k)
		}
		*s = before
	}
}
