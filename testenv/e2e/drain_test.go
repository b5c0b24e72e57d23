package e2e

import (
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A persistent client comes back to a drained real, and is named; let go, it is
// served by another one, while the connection that it has stays.
func TestDrainOfPersistentClients(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("persistence: {timeout: 300s}")))
	home, addr := r.Curl(1, "http://"+rig.VIP+"/"), "172.25.0.12"
	if home == "r2" {
		addr = "172.25.0.13"
	}
	conn, err := r.Hold(home)
	must(t, err)
	defer conn.Close()
	drain := func(want string, flags ...string) {
		t.Helper()
		out, err := r.LVX(t.Context(), "d1", append([]string{"drain", "web", addr}, flags...)...)
		must(t, err)
		if !strings.Contains(out, want) {
			t.Errorf("lvx drain says %q, not %q", out, want)
		}
	}
	drain("persistence leads 172.25.0.50 back to it")
	if got := r.Curl(2, "http://"+rig.VIP+"/"); got != home+" "+home {
		t.Errorf("the client of %s is served by %s while its template lives", home, got)
	}
	drain("1 persistent clients go elsewhere", "--now-persistent")
	if got := r.Curl(2, "http://"+rig.VIP+"/"); strings.Contains(got, home) || len(got) != 5 {
		t.Errorf("the client that was let go is served by %s", got)
	}
	if name, err := rig.Ask(conn); err != nil || name != home {
		t.Errorf("the open connection is served by %q, %v", name, err)
	}
}
