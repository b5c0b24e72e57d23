package sched

// WLC chooses by weighted least connection (ip_vs_wlc.c), the kernel's
// default: the fewest connections per weight. Loads and answer are as in [LC].
func WLC(loads []Load) int {
	return pickLeast(loads, func(a, b Load) bool {
		return isHeavier(b.overhead(), b.Weight, a.overhead(), a.Weight)
	})
}
