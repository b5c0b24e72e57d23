package sched

import "slices"

// OVF chooses by weighted overflow (ip_vs_ovf.c): the heaviest real that has
// no more active connections than weight; what is too much flows over to the
// next. Loads and answer are as in [LC].
func OVF(loads []Load) int {
	fitting := slices.Clone(loads)
	for i, l := range fitting {
		fitting[i].Overloaded = l.Overloaded || l.Active > uint32(l.Weight)
	}
	return FO(fitting)
}
