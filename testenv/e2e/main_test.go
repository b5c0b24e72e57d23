package e2e

import (
	"os"
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
