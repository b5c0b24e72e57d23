package sched

// NQ never queues while a real is idle (ip_vs_nq.c): the first real without
// an active connection, however light, else as [SED]. Loads and answer are as
// in [LC].
func NQ(loads []Load) int {
	if i := firstIdle(loads); i >= 0 {
		return i
	}
	return SED(loads)
}
