package sched

import (
	"fmt"
	"math/bits"
	"net/netip"
)

// MHTableSize is the number of slots of mh, a prime: primes[] of ip_vs_mh.c
// at the default CONFIG_IP_VS_MH_TAB_INDEX of 12.
const MHTableSize = 4093

// mhTableBits bounds the turns of a real (IP_VS_MH_TAB_BITS).
const mhTableBits = 6

// The two fixed keys of generate_hash_secret. The kernel sets both halves of
// a 128-bit key to the same number.
const (
	mhKey1 = 2654435761
	mhKey2 = 2654446892
)

// mhReal is a real's walk through the table (struct ip_vs_mh_dest_setup).
type mhReal struct {
	at    int // the slot it would like next
	skip  int // from there to the one after
	turns int // slots it takes before the next real has its turn
}

// buildMH lays out Maglev hashing (ip_vs_mh_reassign). Turns follow the last
// weight that was not 0, so that quiescing a real and raising it again moves
// no other real's clients.
func buildMH(r, _ *Ring, _ uint64) error {
	if len(r.walk) > MHTableSize {
		return fmt.Errorf("%d reals (at most %d fit)", len(r.walk), MHTableSize)
	}
	r.Slots = make([]uint32, MHTableSize)
	for i := range r.Slots {
		r.Slots[i] = None
	}
	for _, d := range r.walk {
		if !d.Addr.IsValid() {
			return fmt.Errorf("real %d without an address (mh hashes it)", d.ID)
		}
	}
	reals := r.mhReals()
	for free := MHTableSize; reals != nil; {
		for i := range reals {
			m := &reals[i]
			for range m.turns {
				for r.Slots[m.at] != None {
					m.at = (m.at + m.skip) % MHTableSize
				}
				r.Slots[m.at] = r.walk[i].ID
				if free--; free == 0 {
					return nil
				}
			}
		}
	}
	return nil
}

// mhReals prepares the walk of every real (ip_vs_mh_permutate), nil if none
// ever had a weight. Weights are divided by their greatest common divisor and
// shifted right until the largest has no more than six bits.
func (r *Ring) mhReals() []mhReal {
	weights := make([]int, len(r.walk))
	largest := 0
	for i, d := range r.walk {
		weights[i] = int(d.lastWeight)
		largest = max(largest, weights[i])
	}
	gcd := gcdOf(weights)
	if gcd == 0 {
		return nil
	}
	shift := max(0, bits.Len(uint(largest/gcd))-mhTableBits)
	reals := make([]mhReal, len(r.walk))
	for i, d := range r.walk {
		x := foldAddr(d.Addr) + uint32(d.Port)
		reals[i] = mhReal{
			at:   int(hsiphash(x, mhKey1) % MHTableSize),
			skip: int(hsiphash(x, mhKey2)%(MHTableSize-1)) + 1,
		}
		if weights[i] > 0 {
			reals[i].turns = max(1, weights[i]/gcd>>shift)
		}
	}
	return reals
}

// MHSlot is the slot of a client (ip_vs_mh_hashkey with the first key): port
// is the client's with MHPort and 0 without, offset is 0 but for the fallback.
//
//	slot = hsiphash(offset + port + address) mod 4093
//
// where address is an IPv4 address in host order, or the exclusive or of the
// four words of an IPv6 address. hsiphash is SipHash-1-3 of the sum as four
// little-endian bytes under the key 2654435761, 2654435761, cut to 32 bits:
// what the kernel computes on 64-bit machines.
func MHSlot(addr netip.Addr, port uint16, offset int) int {
	return int(hsiphash(foldAddr(addr)+uint32(port)+uint32(offset), mhKey1) % MHTableSize)
}

// MHFallbackSlot is the slot to try as the i-th, i from 0 to 4092, when the
// real of the client's own slot is not usable (ip_vs_mh_get_fallback). slot is
// the client's own, MHSlot(addr, port, 0).
func MHFallbackSlot(addr netip.Addr, port uint16, slot, i int) int {
	return MHSlot(addr, port, (slot+i)%MHTableSize)
}

func (r *Ring) pickMH(addr netip.Addr, port uint16, usable func(uint32) bool) uint32 {
	if r.Flags&MHPort == 0 {
		port = 0
	}
	slot := MHSlot(addr, port, 0)
	id := r.Slots[slot]
	if id == None || usable(id) {
		return id
	}
	if r.Flags&MHFallback == 0 {
		return None
	}
	for i := range MHTableSize {
		if id := r.Slots[MHFallbackSlot(addr, port, slot, i)]; usable(id) {
			return id
		}
	}
	return None
}

// hsiphash is the kernel's hsiphash_1u32 on 64-bit machines (lib/siphash.c)
// under a key of two equal halves: SipHash-1-3, cut to 32 bits.
func hsiphash(x uint32, key uint64) uint32 { return hsiphash2(x, key, key) }

func hsiphash2(x uint32, k0, k1 uint64) uint32 {
	v0 := k0 ^ 0x736f6d6570736575
	v1 := k1 ^ 0x646f72616e646f6d
	v2 := k0 ^ 0x6c7967656e657261
	v3 := k1 ^ 0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	b := 4<<56 | uint64(x) // length of the message and its only, short block
	v3 ^= b
	round()
	v0 ^= b
	v2 ^= 0xff
	round()
	round()
	round()
	return uint32(v0 ^ v1 ^ v2 ^ v3)
}
