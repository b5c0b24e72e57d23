package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// A daemon that is killed the moment a command has been answered has lost
// neither that command nor the one before; connections go on.
func TestRuntimeSurvivesKill(t *testing.T) {
	s := newTyped(t)
	s.mustType("ipvsadm -A -t " + rig.VIP + ":80 -s rr && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.12")
	conn, err := s.Hold("r1")
	must(t, err)
	defer conn.Close()
	for n, command := range []string{
		"ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.13 -w 3",
		"ipvsadm -e -t " + rig.VIP + ":80 -r 172.25.0.12 -w 0",
		"ipvsadm -A -t " + rig.VIP + ":81 -s wlc -p 60",
		"ipvsadm -d -t " + rig.VIP + ":80 -r 172.25.0.13",
	} {
		s.mustType(command)
		s.Kill("d1")
		must(t, s.Start(t.Context(), "d1"))
		rules := s.mustType("ipvsadm -S -n")
		if lines := strings.Count(rules, "\n"); lines != []int{3, 3, 4, 3}[n] {
			t.Errorf("after %s and kill -9:\n%s", command, rules)
		}
	}
	name, err := rig.Ask(conn)
	must(t, err)
	s.want("the connection that was there", name, "r1")
}

// Saving, restoring over what runs, and saving again is the same, and no
// connection notices; a table of 12,700 rules comes into force at once.
func TestRuntimeRestore(t *testing.T) {
	s := newTyped(t)
	s.mustType("ipvsadm -A -t " + rig.VIP + ":80 -s rr && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.12 && ipvsadm -a -t " + rig.VIP + ":80 -r 172.25.0.13")
	conn, err := s.Hold("r1")
	must(t, err)
	defer conn.Close()
	s.mustType("ipvsadm-save -n > rules && ipvsadm-restore < rules && ipvsadm -Sn | cmp - rules")
	var rules strings.Builder
	for n := range 4234 {
		at := fmt.Sprintf("-t %s:%d", rig.VIP, 10000+n)
		fmt.Fprintf(&rules, "-A %s -s wrr\n-a %s -r 172.25.0.12 -w 2\n-a %s -r 172.25.0.13 -w 1\n", at, at, at)
	}
	must(t, os.WriteFile(filepath.Join(s.dir, "many"), []byte(rules.String()), 0o600))
	began := time.Now()
	s.mustType("ipvsadm -R < many")
	t.Logf("%d rules in %v", strings.Count(rules.String(), "\n"), time.Since(began))
	if n := strings.Count(s.mustType("ipvsadm -S -n"), "\n"); n != 3+strings.Count(rules.String(), "\n") {
		t.Errorf("%d rules are saved", n)
	}
	name, err := rig.Ask(conn)
	must(t, err)
	s.want("the connection that was there", name, "r1")
	s.want("who answers", s.curl(2, 80), "r2 r1")
}
