package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// birdc tells the router's BIRD something.
func (f *fabric) birdc(words ...string) string {
	f.t.Helper()
	return run(f.t, f.router, append([]string{"birdc", "-s", filepath.Join(f.router.Dir(), "bird.ctl")}, words...)...)
}

// reconfigure changes the router's configuration in place.
func (f *fabric) reconfigure(old, fresh string) {
	f.t.Helper()
	path := filepath.Join(f.router.Dir(), "bird.conf")
	text, err := os.ReadFile(path)
	must(f.t, err)
	changed := strings.Replace(string(text), old, fresh, 1)
	if changed == string(text) {
		f.t.Fatalf("%q is not in the router's configuration", old)
	}
	must(f.t, os.WriteFile(path, []byte(changed), 0o600))
	if out := f.birdc("configure"); !strings.Contains(out, "Reconfig") {
		f.t.Fatalf("birdc configure: %s", out)
	}
}

// Nothing fails under load when two directors of three restart at once, when the
// router takes another policy and asks for all routes again, nor when it ends a session
// and begins it again.
func TestDirectorsAndRouterChangeAtOnce(t *testing.T) {
	f := newFabric(t)
	f.direct(fabricDirectors, fabricBody(hashed, "sloppy_tcp: true\n"))
	load, err := f.Load(fabricLoad())
	must(t, err)
	must(t, load.Await(t.Context(), 20))

	var both sync.WaitGroup
	for _, d := range []string{"d1", "d2"} {
		daemon := f.Daemons[d]
		both.Go(func() {
			if err := daemon.Stop(); err != nil {
				t.Errorf("%s stops: %v", d, err)
			}
		})
	}
	both.Wait()
	f.awaitPath("d1", false)
	f.awaitPath("d2", false)
	must(t, load.Await(t.Context(), 20))
	for _, d := range []string{"d1", "d2"} {
		must(t, f.Start(t.Context(), d))
	}
	f.awaitPath("d1", true)
	f.awaitPath("d2", true)
	must(t, load.Await(t.Context(), 20))

	f.reconfigure(drainedLast, "filter { bgp_community.add((65000,7)); "+strings.TrimPrefix(drainedLast, "filter { "))
	eventually(t, func() error {
		if out := f.birdc("show", "route", "for", rig.VIP, "all"); strings.Count(out, "(65000,7)") != len(fabricDirectors) {
			return fmt.Errorf("not all routes by the new policy: %s", out)
		}
		return nil
	})
	must(t, load.Await(t.Context(), 20))
	f.birdc("disable", "d1")
	f.awaitPath("d1", false)
	f.birdc("enable", "d1")
	f.awaitPath("d1", true)
	must(t, load.Await(t.Context(), 20))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err)
}
