package xdp

import (
	"cmp"
	"slices"
)

// flatten makes overlapping ranges disjoint and sorted; the narrower wins.
func flatten(in []portRange) []portRange {
	slices.SortFunc(in, func(a, b portRange) int { // widest first, later ones paint over
		return cmp.Compare(int(b.last)-int(b.first), int(a.last)-int(a.first))
	})
	var out []portRange
	for _, r := range in {
		var next []portRange
		for _, o := range out {
			if o.last < r.first || o.first > r.last {
				next = append(next, o)
				continue
			}
			if o.first < r.first {
				next = append(next, portRange{o.first, r.first - 1, o.service})
			}
			if o.last > r.last {
				next = append(next, portRange{r.last + 1, o.last, o.service})
			}
		}
		out = append(next, r)
	}
	slices.SortFunc(out, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	return out
}
