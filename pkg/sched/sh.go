package sched

import "net/netip"

// HashBuckets is the number of slots of sh and dh (IP_VS_SH_TAB_SIZE,
// IP_VS_DH_TAB_SIZE).
const HashBuckets = 256

// buildSH lays out source hashing (ip_vs_sh_reassign): the walk goes round
// and round over the buckets, each real taking as many in a row as it has
// weight. A quiesced real takes one, and its clients are refused there unless
// SHFallback finds them another.
func buildSH(r, _ *Ring, _ uint64) error {
	r.Slots = make([]uint32, HashBuckets)
	at, taken := 0, 0
	for b := range r.Slots {
		if len(r.walk) == 0 {
			r.Slots[b] = None
			continue
		}
		d := r.walk[at]
		r.Slots[b] = d.ID
		if taken++; taken >= int(d.Weight) {
			at, taken = (at+1)%len(r.walk), 0
		}
	}
	return nil
}

// SHBucket is the slot of a client (ip_vs_sh_hashkey): port is the client's
// with SHPort and 0 without.
//
//	bucket = (port + address) * 0x61C88647 mod 2^32 >> 24
//
// where address is an IPv4 address in host order, or the exclusive or of the
// four words of an IPv6 address.
func SHBucket(addr netip.Addr, port uint16) int { return hash8(foldAddr(addr) + uint32(port)) }

// SHFallbackBucket is the slot to try as the i-th, i from 0 to 255, when the
// real of the client's own slot is not usable (ip_vs_sh_get_fallback). It is
// counted from twice the client's bucket, because the kernel adds its offset
// to the hash once more.
func SHFallbackBucket(bucket, i int) int { return (2*bucket + i) % HashBuckets }

func (r *Ring) pickSH(addr netip.Addr, port uint16, usable func(uint32) bool) uint32 {
	if r.Flags&SHPort == 0 {
		port = 0
	}
	bucket := SHBucket(addr, port)
	id := r.Slots[bucket]
	if id == None || usable(id) {
		return id
	}
	if r.Flags&SHFallback == 0 {
		return None
	}
	for i := range HashBuckets {
		if id := r.Slots[SHFallbackBucket(bucket, i)]; usable(id) {
			return id
		}
	}
	return None
}
