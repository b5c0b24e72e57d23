package sched

// LC chooses by least connection (ip_vs_lc.c): the fewest connections,
// whatever the weight. The loads come in the order of [Ring.Slots]; the answer
// is an index, -1 if none is usable.
func LC(loads []Load) int {
	return pickLeast(loads, func(a, b Load) bool { return a.overhead() < b.overhead() })
}
