package sched

// SED chooses by shortest expected delay (ip_vs_sed.c): the fewest active
// connections per weight, the new one included. Inactive ones do not count.
// Loads and answer are as in [LC].
func SED(loads []Load) int {
	return pickLeast(loads, func(a, b Load) bool {
		return isHeavier(b.delay(), b.Weight, a.delay(), a.Weight)
	})
}
