package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// faultLoad is the load that must not notice a fault: 300 short connections a
// second beside 300 long ones with LVX_LOAD=1, else a tenth of both.
func faultLoad() rig.Demand { return rig.Demand{PerSecond: share(300), Long: share(300)} }

// shareOf is as much of a time as a run has of the load.
func shareOf(full time.Duration) time.Duration {
	return time.Duration(share(int(full/time.Second))) * time.Second
}

// Maps whose layouts and sizes change with a release lose nothing: not on the
// way to that release, and not on the way back.
func TestFault22UpgradesOverChangedMaps(t *testing.T) {
	binaries := []string{buildOtherLayout(t), lvx}
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", "tables: {flows: 40000}\n"+service("persistence: {timeout: 300s}")))
	file := filepath.Join(r.Cluster.Host("d1").Dir(), "lvx.yaml")
	sizes := []string{"flows: 40000", "flows: 60000"}
	repeatBesideLoad(t, r, faultLoad(), share(10)+1, func(i int, _ *rig.Load) {
		replaceIn(t, file, sizes[i%2], sizes[(i+1)%2])
		out, err := r.LVX(t.Context(), "d1", "upgrade", binaries[i%2])
		must(t, err)
		if !strings.Contains(out, "serves") {
			t.Errorf("upgrade says:\n%s", out)
		}
	})
	for _, copied := range []string{"counters (", "labels (", "flows ("} {
		if log := r.Daemons["d1"].Output(); !strings.Contains(log, copied) {
			t.Errorf("the log does not say that %s...) was copied:\n%s", copied, log)
		}
	}
	must(t, r.Stop("d1"))
	nothingLeft(t, r, "d1")
}

// A daemon that was dead for long is followed by one whose checks take their
// time: until they have answered, the reals are as the dead one left them.
func TestFault21StartAfterAMinute(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	slow := "check: {type: exec, argv: [/bin/sleep, \"0.5\"], interval: 2s, timeout: 1500ms, fall: 2, rise: 2}"
	must(t, r.Direct(t.Context(), "d1", service(slow)))
	realsUp(t, r, "r1", "r2")
	repeatBesideLoad(t, r, faultLoad(), 1, func(int, *rig.Load) {
		r.Kill("d1")
		time.Sleep(shareOf(70 * time.Second))
		must(t, r.Start(t.Context(), "d1"))
	})
	realsUp(t, r, "r1", "r2")
}

// A port of the director that is down costs what is asked meanwhile, and
// nothing else.
func TestFault20PortDown(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", checked("type: tcp", "")))
	realsUp(t, r, "r1", "r2")
	dead := max(shareOf(30*time.Second), 2*(checkFall*checkEvery+checkTimeout))
	demand := faultLoad()
	demand.Patience = 3 * dead // a question's next repetition by TCP comes that late
	repeatBesideLoad(t, r, demand, 1, func(_ int, load *rig.Load) {
		must(t, load.Cut(func() error {
			must(t, r.Cluster.Switch().SetLink("d1", false))
			time.Sleep(dead)
			return r.Cluster.Switch().SetLink("d1", true)
		}))
		must(t, load.Await(t.Context(), share(3000)))
	})
	if logs := r.Logs(); strings.Contains(logs, " down: ") {
		t.Errorf("a real was taken down:\n%s", logs)
	}
}

// fullDisk is a directory on a file system without room, as d1 sees it.
func fullDisk(t *testing.T, r *rig.Rig) string {
	t.Helper()
	dir := filepath.Join(r.Cluster.Host("d1").Dir(), "full")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	f, err := os.Create(filepath.Join(dir, "everything"))
	must(t, err)
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 512)); err != nil {
			return dir
		}
	}
}

// A disk that is full before the first start takes no notes, and keeps lvx
// from nothing: not from serving, commands, reloads, and restarts.
func TestFault02FullDiskAtTheFirstStart(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	dir := fullDisk(t, r)
	d1 := r.Cluster.Host("d1")
	_, err := r.Config("d1", checked("type: tcp", ""))
	must(t, err)
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	replaceIn(t, file, "state_dir: "+d1.Dir(), "state_dir: "+dir)
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	repeatBesideLoad(t, r, faultLoad(), share(10)+1, func(i int, _ *rig.Load) {
		weight := []string{lvx, "weight", "web", "172.25.0.12", []string{"2", "3"}[i%2], "--socket", r.Socket("d1")}
		out := run(t, d1, "sh", "-c", strings.Join(weight, " ")+" 2>&1")
		if !strings.Contains(out, "it will not survive a restart") {
			t.Errorf("weight does not say that it will not survive:\n%s", out)
		}
		_, err := r.LVX(t.Context(), "d1", "reload")
		must(t, err)
		if i%2 == 0 {
			r.Kill("d1")
		} else {
			must(t, r.Leave("d1"))
		}
		must(t, r.Start(t.Context(), "d1"))
	})
	if status, err := r.LVX(t.Context(), "d1", "status"); err != nil || !strings.Contains(status, "no space left on device") {
		t.Errorf("status does not say that nothing is stored: %v\n%s", err, status)
	}
}

// Notes that a power cut spoilt, again and again, and once all of them gone,
// cost no connection: what the pinned maps hold is enough.
func TestFault02BrokenNotes(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", checked("type: tcp", "")))
	realsUp(t, r, "r1", "r2")
	dir := r.Cluster.Host("d1").Dir()
	garbage := [][]byte{nil, make([]byte, 512), []byte("\x00\xffnonsense"), []byte("{"), []byte("[]"), nil}
	repeatBesideLoad(t, r, faultLoad(), share(10)+2, func(i int, _ *rig.Load) {
		list := func() []string {
			notes, err := filepath.Glob(filepath.Join(dir, "*.json"))
			must(t, err)
			return notes
		}
		eventually(t, func() error { // the daemon serves first and writes notes afterwards
			if len(list()) == 0 {
				return errors.New("no notes in " + dir)
			}
			return nil
		})
		r.Kill("d1")
		for _, file := range list() {
			if strings.HasSuffix(file, "real.json") {
				continue
			}
			if i%3 == 2 {
				must(t, os.Remove(file))
			} else {
				must(t, os.WriteFile(file, garbage[i%len(garbage)], 0o600))
			}
		}
		must(t, r.Start(t.Context(), "d1"))
	})
}

// The directory of notes is gone while the maps are there: what is pinned and
// what is on the interface is enough to go on.
func TestFault02StateDirLost(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	_, err := r.Config("d1", checked("type: tcp", ""))
	must(t, err)
	notes := filepath.Join(d1.Dir(), "notes")
	replaceIn(t, filepath.Join(d1.Dir(), "lvx.yaml"), "state_dir: "+d1.Dir(), "state_dir: "+notes)
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	repeatBesideLoad(t, r, faultLoad(), 2, func(int, *rig.Load) {
		r.Kill("d1")
		must(t, os.RemoveAll(notes))
		must(t, r.Start(t.Context(), "d1"))
	})
	if _, err := os.Stat(filepath.Join(notes, "memory.json")); err != nil {
		t.Errorf("notes are not kept again: %v", err)
	}
}
