package connsync

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// However many services two directors have, nothing differs between those that have
// the same ones, in whatever order: all are compared, or as many as fit a frame.
func TestDigestsOfManyServices(t *testing.T) {
	for _, name := range []string{"service-%d", strings.Repeat("n", 200) + "%d"} {
		var all []Digest
		for i := range 1 << 14 {
			all = append(all, Digest{fmt.Sprintf(name, i), uint64(i)})
		}
		ours := digestsOfFrame(all)
		slices.Reverse(all)
		body := appendDigests(nil, digestsOfFrame(all))
		theirs, err := parseDigests(body)
		if err != nil || len(body) > maxFrame || len(theirs) < len(all) && len(body) < maxFrame-300 {
			t.Fatalf("%d digests in %d bytes: %v", len(theirs), len(body), err)
		}
		if differ := compareDigests(ours, theirs); len(differ) > 0 {
			t.Errorf("%d of %d differ", len(differ), len(ours))
		}
	}
	if got := digestsOfFrame([]Digest{}); got == nil {
		t.Error("that there is no service is not told")
	}
}
