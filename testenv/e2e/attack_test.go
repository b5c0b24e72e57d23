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

// manyRules writes so many services with two reals each as ipvsadm -R reads
// them, and gives how many lines they are.
func (s typed) manyRules(name string, services int) (lines int) {
	s.Helper()
	var rules strings.Builder
	for n := range services {
		at := fmt.Sprintf("-t %s:%d", rig.VIP, 10000+n)
		fmt.Fprintf(&rules, "-A %s -s wrr\n-a %s -r 172.25.0.12 -w 2\n-a %s -r 172.25.0.13 -w 1\n", at, at, at)
	}
	must(s.T, os.WriteFile(filepath.Join(s.dir, name), []byte(rules.String()), 0o600))
	return 3 * services
}

// saved counts the lines that ipvsadm -S writes.
func (s typed) saved() int {
	s.Helper()
	return strings.Count(s.mustType("ipvsadm -S -n"), "\n")
}

// Many commands at a time, a restore that is interrupted at every stage, and
// reloads and clears in between: each command is carried out wholly or not at all,
// and no connection notices.
func TestRuntimeUnderAttack(t *testing.T) {
	s := newTyped(t)
	must(t, s.Direct(t.Context(), "d1", "services:\n  - {name: web, listen: [\""+rig.VIP+":80/tcp\"], scheduler: rr, reals: [{address: 172.25.0.12}, {address: 172.25.0.13}]}\n"))
	load, err := s.Load(rig.Demand{PerSecond: 20, Long: 4, Most: 4000})
	must(t, err)
	base := s.saved()

	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			at := fmt.Sprintf("-t %s:%d", rig.VIP, 9000+n)
			if out, err := s.Type("d1", "ipvsadm -A "+at+" -s rr && ipvsadm -a "+at+" -r 172.25.0.12 && ipvsadm -e "+at+" -r 172.25.0.12 -w 7 && lvx reload"); err != nil {
				t.Errorf("process %d: %v\n%s", n, err, out)
			}
		})
	}
	all.Wait()
	if got := s.saved(); got != base+16 || strings.Count(s.mustType("ipvsadm -S -n"), "-w 7") != 8 {
		t.Errorf("%d processes at a time have left:\n%s", 8, s.mustType("ipvsadm -S -n"))
	}
	s.lvx("runtime", "clear")
	if got := s.saved(); got != base {
		t.Errorf("%d lines after a clear, want %d", got, base)
	}

	lines := s.manyRules("many", 1411)
	interrupted := 0
	for wait := 25; wait <= 400; wait *= 2 {
		out, err := s.Type("d1", fmt.Sprintf("timeout -s INT 0.%03d ipvsadm -R <many", wait))
		switch got := s.saved(); {
		case got == base+lines:
		case got == base && err != nil:
			interrupted++
		default:
			t.Errorf("interrupted after %d ms: %d lines, want %d or %d (%v)\n%s", wait, got, base, base+lines, err, out)
		}
		s.lvx("runtime", "clear")
	}
	t.Logf("%d restores were interrupted before they began", interrupted)

	all.Go(func() {
		if out, err := s.Type("d1", "ipvsadm -R <many"); err != nil {
			t.Errorf("restore beside reloads: %v\n%s", err, out)
		}
	})
	for range 3 {
		s.lvx("reload")
	}
	all.Wait()
	s.lvx("reload")
	if got := s.saved(); got != base+lines {
		t.Errorf("%d lines after a restore beside reloads, want %d", got, base+lines)
	}
	s.Kill("d1")
	must(t, s.Start(t.Context(), "d1"))
	if got := s.saved(); got != base+lines {
		t.Errorf("%d lines after kill -9, want %d", got, base+lines)
	}
	s.lvx("runtime", "clear")
	must(t, load.Await(t.Context(), 10))
	summary, err := load.Stop()
	t.Log(summary)
	must(t, err)
}

// A disk without room for the layer is said at once, and stands in nobody's
// way; when there is room again, what was typed is kept.
func TestRuntimeOnAFullDisk(t *testing.T) {
	s := newTyped(t)
	dir := fullDisk(t, s.Rig)
	file := filepath.Join(s.Cluster.Host("d1").Dir(), "lvx.yaml")
	replaceIn(t, file, "state_dir: "+s.Cluster.Host("d1").Dir(), "state_dir: "+dir)
	s.Kill("d1")
	must(t, s.Start(t.Context(), "d1"))
	const notStored = "in force, but not stored: it will not survive a restart (see lvx status)"
	at := "-t " + rig.VIP + ":80"
	for _, command := range []string{"ipvsadm -A " + at + " -s rr", "ipvsadm -a " + at + " -r 172.25.0.12"} {
		if out := s.mustType(command + " 2>&1"); !strings.Contains(out, notStored) {
			t.Errorf("%s: %q", command, out)
		}
	}
	s.want("who answers", s.curl(1, 80), "r1")
	must(t, os.Remove(filepath.Join(dir, "everything")))
	if out := s.mustType("ipvsadm -a " + at + " -r 172.25.0.13 2>&1"); out != "" {
		t.Errorf("with room again: %q", out)
	}
	rules := s.mustType("ipvsadm -S -n")
	s.Kill("d1")
	must(t, s.Start(t.Context(), "d1"))
	s.want("after kill -9", s.mustType("ipvsadm -S -n"), rules)
}
