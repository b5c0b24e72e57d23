package xdp

import "sync/atomic"

// limit puts the thresholds of r into force (__ip_vs_update_dest,
// ip_vs_unbind_dest). The packet path finds out whether r is overloaded.
func (b *Backend) limit(r *real) {
	l := &b.dp.Loads[r.slot]
	upper, lower := r.conf.Upper, r.conf.Lower
	if lower == 0 {
		lower = uint32((uint64(upper)*3 + 3) / 4) // fewer than three quarters
	}
	if l.Upper == upper && l.Lower == lower {
		return
	}
	raised := upper > l.Upper
	atomic.StoreUint32(&l.Upper, upper)
	atomic.StoreUint32(&l.Lower, lower)
	if raised {
		atomic.StoreUint32(&l.IsOverloaded, 0)
	}
}

// isOverloaded reports what the packet path would find of r at the next new
// connection (is_overloaded of bpf/stats.h).
func (b *Backend) isOverloaded(r *real) bool {
	l := &b.dp.Loads[r.slot]
	total := int64(atomic.LoadInt32(&l.Active)) + int64(atomic.LoadInt32(&l.Inactive))
	return l.Upper != 0 && atomic.LoadUint32(&l.IsOverloaded) != 0 && total >= int64(l.Lower)
}
