// Package sched turns the weights of real servers into a ring: the array of
// slots from which the packet path picks a real for each new connection. One
// file per scheduler mirrors the kernel's ip_vs_*.c, so that the same service
// picks the same reals under XDP and under IPVS.
//
// It is pure: no I/O, no clock, no randomness, and it imports nothing of lvx.
// It does not know which reals are healthy, resolved or overloaded; callers
// leave such reals out, give them weight 0, or skip them at the pick. The one
// trap: a Ring of sh, dh or mh holds quiesced reals too, as the kernel's
// tables do, so a caller that indexes Slots must still ask whether the real found
// there may take a connection.
package sched

import (
	"fmt"
	"net/netip"
	"slices"
)

// None is the ID in a slot that holds no real, and the answer of a pick that
// found none.
const None = ^uint32(0)

// MaxSlots is the length that no ring exceeds. The weights of a wrr service
// whose cycle is longer are scaled down to fit.
const MaxSlots = 1 << 16

// Flags are a scheduler's flags, with the values of lb.SchedFlags.
type Flags uint8

// Scheduler flags (IP_VS_SVC_F_SCHED_* in the kernel).
const (
	SHFallback Flags = 1 << iota // sh: try other buckets when the real is not usable
	SHPort                       // sh: hash the client's port too
	MHFallback                   // mh: try other slots when the real is not usable
	MHPort                       // mh: hash the client's port too
)

// Real is a real server as a scheduler sees it.
type Real struct {
	ID     uint32 // the data path's slot for it, unique in a service, never None
	Weight uint16 // 0 = quiesced: picked for nothing new

	// Addr and Port are hashed by mh, and by no other scheduler. Port is the
	// one that the kernel's destination would have: the real's own, or else
	// the listener's; 0 for a service by mark.
	Addr netip.Addr
	Port uint16
}

// Ring is what the packet path picks from, and what [Build] needs to carry on
// after an edit. A Ring does not change once it is built.
type Ring struct {
	Scheduler string
	Flags     Flags

	// Slots holds IDs of reals. rr and wrr: one whole cycle, picked in turn;
	// empty if no real has a weight. sh, dh and mh: one slot per hash bucket;
	// None in all of them if there is no real. lc, wlc, sed, nq, fo and ovf: the reals
	// with a weight, in the order in which the kernel compares them.
	Slots []uint32

	// Next is the slot of the first pick: for rr and wrr, the n-th pick on
	// this ring, n from 0, takes Slots[(Next+n) % len(Slots)].
	Next int

	// Scaled means that a cycle with the weights as given would exceed
	// MaxSlots: shares are then right to within one slot per real.
	Scaled bool

	walk   []dest // the kernel's list of destinations, head first
	cursor uint32 // rr: the real picked last before this ring, None for the list's head
	wrr    wrrState
}

// dest is an entry of the kernel's list of destinations.
type dest struct {
	Real
	lastWeight uint16 // the last weight that was not 0 (ip_vs_dest.last_weight)
}

// builders fill in the slots of a ring whose walk is set.
var builders = map[string]func(r, prev *Ring, picks uint64) error{
	"rr": buildRR, "wrr": buildWRR,
	"sh": buildSH, "dh": buildDH, "mh": buildMH,
	"lc": buildLeast, "wlc": buildLeast, "sed": buildLeast, "nq": buildLeast,
	"fo": buildLeast, "ovf": buildLeast,
}

// Build lays reals out for a scheduler. The reals come in the order of the
// configuration file, which is the order in which ipvsadm would have added
// them: the kernel puts each at the head of its list and walks the list from
// there, last-first.
//
// prev is the ring in force until now, nil for a new service, and picks is
// how many picks were made on it. With them the new ring starts where the
// kernel would stand after the same edit; with nothing edited it goes on as if
// it had not been rebuilt. Several edits at once count as one: reals that left
// do so first.
//
// An unknown scheduler, an ID that is None or occurs twice, and more reals
// than the scheduler has room for are errors.
func Build(scheduler string, flags Flags, reals []Real, prev *Ring, picks uint64) (*Ring, error) {
	build, ok := builders[scheduler]
	if !ok {
		return nil, fmt.Errorf("scheduler %q: not known (try rr, wrr, sh, dh, mh, lc, wlc, sed, nq, fo or ovf)", scheduler)
	}
	if len(reals) > MaxSlots {
		return nil, fmt.Errorf("scheduler %s: %d reals (at most %d fit)", scheduler, len(reals), MaxSlots)
	}
	r := &Ring{Scheduler: scheduler, Flags: flags, cursor: None}
	last := map[uint32]uint16{}
	if prev != nil {
		for _, d := range prev.walk {
			last[d.ID] = d.lastWeight
		}
	}
	seen := make(map[uint32]bool, len(reals))
	for _, real := range slices.Backward(reals) {
		if real.ID == None || seen[real.ID] {
			return nil, fmt.Errorf("scheduler %s: real %d (IDs must be unique and not None)", scheduler, real.ID)
		}
		seen[real.ID] = true
		d := dest{Real: real, lastWeight: real.Weight}
		if real.Weight == 0 {
			d.lastWeight = last[real.ID]
		}
		r.walk = append(r.walk, d)
	}
	if err := build(r, prev, picks); err != nil {
		return nil, fmt.Errorf("scheduler %s: %w", scheduler, err)
	}
	return r, nil
}

// Pick is the n-th pick on a ring of rr or wrr, n from 0; None if the ring is
// empty.
func (r *Ring) Pick(n uint64) uint32 {
	if len(r.Slots) == 0 {
		return None
	}
	return r.Slots[r.slotOf(n)]
}

// slotOf is the slot of the n-th pick. The slots must not be empty.
func (r *Ring) slotOf(n uint64) int {
	size := uint64(len(r.Slots))
	return int((uint64(r.Next) + n%size) % size)
}

// PickHash is the pick of a ring of sh, dh or mh, by the same steps as the
// packet path. addr and port are the client's for sh and mh (port counts only
// with SHPort or MHPort), addr is the virtual address for dh. usable reports
// whether a real may take a connection, apart from its weight; nil means that
// all may. It returns None if the real of the slot may not and there is no
// fallback.
func (r *Ring) PickHash(addr netip.Addr, port uint16, usable func(id uint32) bool) uint32 {
	ok := func(id uint32) bool {
		i := slices.IndexFunc(r.walk, func(d dest) bool { return d.ID == id })
		return i >= 0 && r.walk[i].Weight > 0 && (usable == nil || usable(id))
	}
	switch r.Scheduler {
	case "sh":
		return r.pickSH(addr, port, ok)
	case "dh":
		return r.pickDH(addr, ok)
	case "mh":
		return r.pickMH(addr, port, ok)
	}
	return None
}

// foldAddr makes one word of an address: an IPv4 address in host order, or the
// exclusive or of the four words of an IPv6 address, as the kernel's hashing
// schedulers do.
func foldAddr(a netip.Addr) uint32 {
	word := func(b []byte) uint32 {
		return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return word(b[:])
	}
	b := a.As16()
	return word(b[0:]) ^ word(b[4:]) ^ word(b[8:]) ^ word(b[12:])
}

// hash8 is the kernel's hash_32(x, 8) (linux/hash.h).
func hash8(x uint32) int { return int(x * 0x61C88647 >> 24) }
