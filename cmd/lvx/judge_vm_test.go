//go:build ipvsvm

package main

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/judge"
)

// What a run does that does not say how many steps.
const (
	judgeSteps = 5000
	judgeLook  = 20 // the tables are compared after so many
)

// TestKernelJudge: the same configurations, edits and packets on the kernel's
// IPVS and on lvx's XDP program, compared step by step.
//
//	LVX_JUDGE_STEPS=100000 go test ./testenv/vm/lane -run TestLane/judge -timeout 3h -v
//	LVX_JUDGE_SEED=17 LVX_JUDGE_STEPS=250 go test ./testenv/vm/lane -run TestLane/judge -v
func TestKernelJudge(t *testing.T) {
	number := func(name string, n int) int {
		if s := os.Getenv(name); s != "" {
			var err error
			if n, err = strconv.Atoi(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		return n
	}
	r, err := judge.Run(t.Context(), judge.Options{
		Steps: number("LVX_JUDGE_STEPS", judgeSteps), Look: number("LVX_JUDGE_LOOK", judgeLook),
		Seed: uint64(number("LVX_JUDGE_SEED", 1)), Dir: t.TempDir(), Logf: t.Logf,
		List: func(s lb.State, o lb.Observed, st lb.Stats) (string, error) {
			var b strings.Builder
			err := ipvsadm.Print(&b, ipvsadm.NewListing(s, o, st, nil, nil), ipvsadm.View{Numeric: true})
			return b.String(), err
		},
	})
	t.Logf("%d steps, %s on the guest's clock: %v, %v", r.Steps, r.Passed, r.Outcomes, r.Events)
	if err != nil {
		t.Fatal(err)
	}
}
