package sched

import "net/netip"

// buildDH lays out destination hashing (ip_vs_dh_reassign): the walk goes
// round and round over the buckets, one for each real, whatever its weight.
// The clients of a quiesced real's buckets are refused: dh has no fallback.
func buildDH(r, _ *Ring, _ uint64) error {
	r.Slots = make([]uint32, HashBuckets)
	for b := range r.Slots {
		r.Slots[b] = None
		if len(r.walk) > 0 {
			r.Slots[b] = r.walk[b%len(r.walk)].ID
		}
	}
	return nil
}

// DHBucket is the slot of a virtual address (ip_vs_dh_hashkey): [SHBucket]
// without a port. It distinguishes addresses only for services that have
// several, which means marks.
func DHBucket(vip netip.Addr) int { return hash8(foldAddr(vip)) }

func (r *Ring) pickDH(vip netip.Addr, usable func(uint32) bool) uint32 {
	if id := r.Slots[DHBucket(vip)]; id != None && usable(id) {
		return id
	}
	return None
}
