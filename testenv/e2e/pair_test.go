package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// The names and priorities of the directors of a pair.
var pairPriority = map[string]int{"d1": 150, "d2": 100}

// pairBody is the configuration of a director of a pair that serves with mh and
// sloppy_tcp: whichever of them has the VIP, a connection goes to the same real.
func pairBody(priority int, extra string, reals ...string) string {
	vrrp := "vrrp:\n  - {name: VI_1, interface: eth0, virtual_router_id: 51, version: 3, advert_interval: 300ms, priority: %d, addresses: [" + rig.VIP + "/24]}\n"
	return fmt.Sprintf("sloppy_tcp: true\n"+vrrp, priority) + strings.Replace(service(extra, reals...), "scheduler: rr", "scheduler: mh", 1)
}

// newPair runs two directors, of which d1 has the VIP.
func newPair(t *testing.T) *rig.Rig {
	t.Helper()
	r := newRig(t, testenv.Shape{Directors: 2})
	for _, name := range []string{"d1", "d2"} {
		must(t, r.Direct(t.Context(), name, pairBody(pairPriority[name], "")))
	}
	hasRole(t, r, "d1", "MASTER")
	hasRole(t, r, "d2", "BACKUP")
	return r
}

// hasRole waits until a director has a role.
func hasRole(t *testing.T, r *rig.Rig, name, role string) {
	t.Helper()
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), name, "status")
		if err == nil && !strings.Contains(out, role) {
			err = fmt.Errorf("%s is not %s:\n%s", name, role, out)
		}
		return err
	})
}

// disturb does something to the directors of a pair in turn, beside the load, and
// waits each time until d1 has the VIP again.
func disturb(t *testing.T, times int, do func(r *rig.Rig, name string, i int)) {
	t.Helper()
	r := newPair(t)
	underLoad(t, r, share(times), func(i int) {
		name := []string{"d1", "d2"}[i%2]
		do(r, name, i)
		hasRole(t, r, "d1", "MASTER")
		hasRole(t, r, "d2", "BACKUP")
	})
}

func TestPairReloadsUnderLoad(t *testing.T) {
	disturb(t, 100, func(r *rig.Rig, name string, i int) {
		must(t, r.Direct(t.Context(), name, pairBody(pairPriority[name], []string{"quorum: 1", ""}[i/2%2])))
	})
}

// The master hands over, and takes back what its backup served meanwhile.
func TestPairRestartsUnderLoad(t *testing.T) {
	disturb(t, 50, func(r *rig.Rig, name string, _ int) {
		must(t, r.Leave(name))
		must(t, r.Start(t.Context(), name))
	})
}

// A killed master comes back at once, or after its backup has taken over.
func TestPairKillsUnderLoad(t *testing.T) {
	disturb(t, 50, func(r *rig.Rig, name string, i int) {
		r.Kill(name)
		if i%4 == 0 {
			hasRole(t, r, "d2", "MASTER")
		}
		must(t, r.Start(t.Context(), name))
	})
}

func TestPairUpgradesUnderLoad(t *testing.T) {
	binaries := []string{buildVersion(t, "2.0.0"), buildVersion(t, "1.0.0")}
	disturb(t, 20, func(r *rig.Rig, name string, i int) {
		_, err := r.LVX(t.Context(), name, "upgrade", binaries[i/2%2])
		must(t, err)
	})
}

// A release whose maps have other layouts, and tables of other sizes, takes over on
// either director, and the one before takes over again.
func TestPairUpgradesOverChangedMapsUnderLoad(t *testing.T) {
	binaries := []string{buildOtherLayout(t), lvx}
	disturb(t, 20, func(r *rig.Rig, name string, i int) {
		round := i / 2 % 2
		_, err := r.Config(name, fmt.Sprintf("tables: {flows: %d}\n", 40_000+20_000*round)+pairBody(pairPriority[name], ""))
		must(t, err)
		out, err := r.LVX(t.Context(), name, "upgrade", binaries[round])
		must(t, err)
		if !strings.Contains(out, "serves") {
			t.Errorf("upgrade says:\n%s", out)
		}
		for _, copied := range []string{"counters (", "labels (", "flows ("} {
			if log := r.Daemons[name].Output(); !strings.Contains(log, copied) {
				t.Errorf("the log does not say that %s...) was copied:\n%s", copied, log)
			}
		}
	})
}

// A director that does not start, after a kill, leaves the VIP to the other one.
func TestPairFailedStartsUnderLoad(t *testing.T) {
	disturb(t, 10, func(r *rig.Rig, name string, _ int) {
		file := filepath.Join(r.Cluster.Host(name).Dir(), "lvx.yaml")
		r.Kill(name)
		replaceIn(t, file, "scheduler: mh", "scheduler: nonsense")
		if out, err := r.Cluster.Host(name).Run(t.Context(), lvx, "run", "-c", file); err == nil {
			t.Errorf("it starts with a scheduler that there is not: %s", out)
		}
		replaceIn(t, file, "scheduler: nonsense", "scheduler: mh")
		must(t, r.Start(t.Context(), name))
	})
}

// Of a pin directory of which half is gone a start makes a whole one, and loses
// nothing.
func TestHalfDeletedPinsUnderLoad(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	dir := r.Cluster.Host("d1").PinDir()
	underLoad(t, r, max(2, share(10)), func(i int) { // either half
		r.Kill("d1")
		pins, err := os.ReadDir(dir)
		must(t, err)
		for n, pin := range pins {
			if n%2 == i%2 && !strings.HasPrefix(pin.Name(), "link_") {
				must(t, os.Remove(filepath.Join(dir, pin.Name())))
			}
		}
		must(t, r.Start(t.Context(), "d1"))
	})
}
