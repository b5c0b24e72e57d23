package daemon

import (
	"testing"
	"time"
)

// A director that has joined announces on when a peer of sync goes away: it
// would leave its clients to nobody.
func TestJoiningEndsOnce(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name  string
		looks []bool // a second apart: in step
		want  []bool // under way
	}{
		{"in step from the first", []bool{true, false, true}, []bool{false, false, false}},
		{"in step after a while", []bool{false, false, true, false, false}, []bool{true, true, false, false, false}},
		{"never in step", make([]bool, 40), append(repeat(true, int(syncLimit/time.Second)), repeat(false, 40-int(syncLimit/time.Second))...)},
	} {
		j := joining{began: began}
		for i, isInStep := range test.looks {
			if got := j.isUnderWay(began.Add(time.Duration(i)*time.Second), isInStep); got != test.want[i] {
				t.Errorf("%s: after %d s under way: %t, want %t", test.name, i, got, test.want[i])
			}
		}
	}
}

func repeat(b bool, n int) []bool {
	all := make([]bool, n)
	for i := range all {
		all[i] = b
	}
	return all
}
