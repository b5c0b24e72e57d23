package director

import (
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// What other directors hear of a service does not depend on which reals are up,
// so that directors with one file say the same.
func TestWholeServices(t *testing.T) {
	svc := service("web", 1, 2, 3)
	cfg := configOf(svc)
	planned := func(marks string) []lb.Real {
		out := Plan(Input{Config: cfg, Health: results(svc, marks)})
		return wholeServices(cfg, out)[0].Reals
	}
	for _, marks := range []string{"+++", "-++", "+-+", "---"} {
		got := planned(marks)
		if len(got) != len(svc.Reals) {
			t.Fatalf("%s: %d reals, want %d", marks, len(got), len(svc.Reals))
		}
		for i, r := range got {
			if r.Key() != svc.Reals[i].Key() || r.Weight != svc.Reals[i].Weight {
				t.Errorf("%s: real %d is %v with weight %d, want %v with %d", marks, i, r.Key(), r.Weight, svc.Reals[i].Key(), svc.Reals[i].Weight)
			}
		}
	}
}
