package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// Rules that the tables have no room for make them grow, beside a load that
// must not notice, and a daemon that follows finds what they have become.
func TestTablesGrowUnderLoad(t *testing.T) {
	s := newTyped(t)
	s.mustType("ipvsadm -A -t " + rig.VIP + ":80 -s rr && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.12 && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.13")
	steps := []int{140, 600} // services of mh, whose rings fill 256 lines each
	underLoad(t, s.Rig, len(steps), func(i int) {
		var rules strings.Builder
		fmt.Fprintln(&rules, strings.TrimSpace(s.mustType("ipvsadm -S -n -t "+rig.VIP+":80 2>/dev/null || ipvsadm -S -n")))
		for n := range steps[i] {
			at := fmt.Sprintf("-t %s:%d", rig.VIP, 10000+1000*i+n)
			fmt.Fprintf(&rules, "-A %s -s mh\n-a %s -r 172.25.0.12\n-a %s -r 172.25.0.13\n", at, at, at)
		}
		must(t, os.WriteFile(filepath.Join(s.dir, "more"), []byte(rules.String()), 0o600))
		s.mustType("ipvsadm -R < more")
		if n := strings.Count(s.Logs(), "the tables have grown"); n != 1 {
			t.Errorf("after %d services the tables have grown %d times", steps[i], n)
		}
		s.Kill("d1")
		must(t, s.Start(t.Context(), "d1"))
		if strings.Contains(s.Logs(), "the tables have grown") {
			t.Error("the daemon that follows has made the tables grow again")
		}
	})
}
