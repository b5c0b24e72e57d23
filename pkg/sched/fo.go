package sched

// FO chooses by weighted failover (ip_vs_fo.c): the heaviest real, until it is
// overloaded or away. Loads and answer are as in [LC].
func FO(loads []Load) int {
	return pickLeast(loads, func(a, b Load) bool { return a.Weight > b.Weight })
}
