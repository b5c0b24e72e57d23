package xdp

import "sync/atomic"

// limit puts the thresholds of r into force, and finds out at once whether r is
// overloaded (ip_vs_dest_update_overload): between the lower threshold and the upper
// one r stays what it was.
func (b *Backend) limit(r *real) {
	l := &b.dp.Loads[r.slot]
	upper, lower := r.conf.Upper, r.conf.Lower
	if lower == 0 {
		lower = uint32((uint64(upper)*3 + 3) / 4) // fewer than three quarters
	}
	if l.Upper == upper && l.Lower == lower {
		return
	}
	atomic.StoreUint32(&l.Upper, upper)
	atomic.StoreUint32(&l.Lower, lower)
	switch total := b.connectionsOf(r); {
	case upper == 0 || total < int64(lower):
		atomic.StoreUint32(&l.IsOverloaded, 0)
	case total >= int64(upper):
		atomic.StoreUint32(&l.IsOverloaded, 1)
	}
}

// connectionsOf is how many connections the packet path counts for a real.
func (b *Backend) connectionsOf(r *real) int64 {
	active, inactive := b.liveConnections(r.slot)
	return int64(active) + int64(inactive)
}

// isOverloaded reports what the packet path would find of r at the next new
// connection (is_overloaded of bpf/stats.h).
func (b *Backend) isOverloaded(r *real) bool {
	l := &b.dp.Loads[r.slot]
	return l.Upper != 0 && atomic.LoadUint32(&l.IsOverloaded) != 0 && b.connectionsOf(r) >= int64(l.Lower)
}
