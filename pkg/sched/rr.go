package sched

// buildRR lays out round robin (ip_vs_rr.c): every real with a weight once,
// in the order of the walk, whatever its weight.
func buildRR(r, prev *Ring, picks uint64) error {
	slot := make([]int, len(r.walk)) // of each destination; len(r.Slots) if it comes to have none
	at := -1                         // where the cursor stands in the walk, -1 for the head
	if prev != nil && prev.Scheduler == "rr" {
		r.cursor = prev.lastPick(picks)
		r.cursor = r.nextAfterRemoved(prev.walk, r.cursor)
	}
	for i, d := range r.walk {
		if d.ID == r.cursor {
			at = i
		}
		slot[i] = len(r.Slots)
		if d.Weight > 0 {
			r.Slots = append(r.Slots, d.ID)
		}
	}
	// The next pick is the first real with a weight after the cursor, and
	// slot counts exactly those before it.
	if at+1 < len(slot) && slot[at+1] < len(r.Slots) {
		r.Next = slot[at+1]
	}
	return nil
}

// lastPick is where the kernel's pointer stands after that many picks: at the
// real picked last, or where it stood before the first pick.
func (r *Ring) lastPick(picks uint64) uint32 {
	if picks == 0 || len(r.Slots) == 0 {
		return r.cursor
	}
	return r.Slots[r.slotOf(picks-1)]
}

// nextAfterRemoved moves a cursor whose destination is gone to the nearest one before
// it in the old walk that is still there, or to the head (ip_vs_rr_del_dest).
func (r *Ring) nextAfterRemoved(old []dest, cursor uint32) uint32 {
	here := make(map[uint32]bool, len(r.walk))
	for _, d := range r.walk {
		here[d.ID] = true
	}
	left := None
	for _, d := range old {
		if here[d.ID] {
			left = d.ID
		}
		if d.ID == cursor {
			return left
		}
	}
	return None
}
