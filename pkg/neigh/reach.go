package neigh

import (
	"fmt"
	"net/netip"
	"slices"
)

// CannotAsk says why this host can ask a real nothing now, through no fault
// of the real: there is no way to it, or no watched address at all answers on
// the interface of the way. It is nil if the real may be judged by its
// silence. One silent address alone on an interface is judged: there is
// nothing to compare it with.
func (r *Resolver) CannotAsk(real netip.Addr) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.entries[real]
	switch {
	case !ok || e.Usable() || e.Pending:
		return nil
	case !e.Silent:
		return fmt.Errorf("no way to %s: %s", real, e.Err)
	}
	others := 0
	for a, o := range r.entries {
		if a == real || o.IfIndex != e.IfIndex || o.Local {
			continue
		}
		if !o.Silent {
			return nil
		}
		others++
	}
	if others == 0 {
		return nil
	}
	return fmt.Errorf("nothing answers on %s: none of %d addresses", e.Device, others+1)
}

// AddrsOf lists the watched addresses that were found at a MAC, in order.
func (r *Resolver) AddrsOf(mac MAC) []netip.Addr {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var addrs []netip.Addr
	for a, e := range r.entries {
		if e.MAC == mac && mac != (MAC{}) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
