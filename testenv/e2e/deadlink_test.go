package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// The director's own dead link is no verdict on its reals: none goes down,
// however long it lasts, and with the link the service is there at once. So it
// is with a port of the switch that is blocked while the link stays up.
func TestOwnDeadLink(t *testing.T) {
	for what, cut := range map[string]func(t *testing.T, r *rig.Rig, dead bool){
		"no carrier": func(t *testing.T, r *rig.Rig, dead bool) { must(t, r.Cluster.Switch().SetLink("d1", !dead)) },
		"blocked port": func(t *testing.T, r *rig.Rig, dead bool) {
			state := map[bool]string{true: "disabled", false: "forwarding"}[dead]
			run(t, r.Cluster.Switch(), "bridge", "link", "set", "dev", "d1", "state", portStates[state])
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			must(t, r.Direct(t.Context(), "d1", checked("type: tcp", "")))
			realsUp(t, r, "r1", "r2")
			cut(t, r, true)
			time.Sleep(10 * (checkFall*checkEvery + checkTimeout) / 2)
			out, err := r.LVX(t.Context(), "d1", "status")
			must(t, err)
			t.Logf("while it is dead:\n%s", out)
			begin := time.Now()
			cut(t, r, false)
			if _, err := r.Get("http://"+rig.VIP, rig.Patience); err != nil {
				t.Errorf("the first request after: %v", err)
			}
			took := time.Since(begin)
			t.Logf("first answer after %s", took)
			if got := r.Curl(20, "http://"+rig.VIP); strings.Count(got, "r1") != 10 || strings.Count(got, "r2") != 10 {
				t.Errorf("answered: %s", got)
			}
			if logs := r.Logs(); strings.Contains(logs, " down: ") {
				t.Errorf("a real was taken down:\n%s", logs)
			}
		})
	}
}

// portStates are the states of a bridge's port (linux/if_bridge.h).
var portStates = map[string]string{"disabled": "0", "forwarding": "3"}
