package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
	"github.com/lvx-lb/lvx/testenv/rigtest"
)

// lvx is the binary under test.
var lvx string

func TestMain(m *testing.M) {
	rigtest.PlaySideBySide(4)
	os.Exit(rigtest.Main(m, &lvx))
}

// The words of [rigtest] that the tests here use all the time.
var (
	must       = rigtest.Must
	eventually = rigtest.Eventually
	run        = rigtest.Run
	service    = rigtest.Service
	replaceIn  = rigtest.ReplaceIn
	metricOf   = rigtest.Metric
)

// newRig builds a cluster that ends with the test.
func newRig(t *testing.T, s testenv.Shape) *rig.Rig {
	t.Helper()
	return rigtest.New(t, lvx, s)
}

// commands types lines on a host, one after the other.
func commands(t *testing.T, h *testenv.Host, lines ...string) {
	t.Helper()
	for _, line := range lines {
		run(t, h, strings.Fields(line)...)
	}
}

// checked is a service with quick checks.
func checked(check string) string {
	return service("check: {" + check + ", interval: 500ms, timeout: 400ms, fall: 2, rise: 2}")
}

// realsUp waits until exactly these reals get requests.
func realsUp(t *testing.T, r *rig.Rig, want ...string) {
	t.Helper()
	eventually(t, func() error {
		got := r.Curl(2*len(want), "http://"+rig.VIP)
		for _, w := range want {
			if strings.Count(got, w) != 2 {
				return fmt.Errorf("requests were answered by %s, want %v", got, want)
			}
		}
		return nil
	})
}

// bothServe wants the next requests to be answered by both reals.
func bothServe(t *testing.T, r *rig.Rig, when string) {
	t.Helper()
	if got := r.Curl(4, "http://"+rig.VIP); strings.Count(got, "r1") != 2 || strings.Count(got, "r2") != 2 {
		t.Errorf("%s requests are answered by %s", when, got)
	}
}

// says waits until a command on d1 prints all of this.
func says(t *testing.T, r *rig.Rig, command string, wanted ...string) {
	t.Helper()
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", strings.Fields(command)...)
		if err != nil {
			return err
		}
		for _, w := range wanted {
			if !strings.Contains(out, w) {
				return fmt.Errorf("lvx %s does not say %q:\n%s", command, w, out)
			}
		}
		return nil
	})
}

// errText is an error's text, "" without one.
func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
