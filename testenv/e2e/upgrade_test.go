package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// Another binary takes over, again and again, and nobody notices.
func TestUpgradesUnderLoad(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	versions := []string{"2.0.0", "1.0.0"}
	binaries := []string{buildVersion(t, versions[0]), buildVersion(t, versions[1])}
	must(t, r.Direct(t.Context(), "d1", service("")))
	underLoad(t, r, share(20), func(i int) {
		out, err := r.LVX(t.Context(), "d1", "upgrade", binaries[i%2])
		must(t, err)
		if !strings.Contains(out, versions[i%2]+" serves") {
			t.Errorf("upgrade says:\n%s", out)
		}
	})
	must(t, r.Stop("d1"))
	nothingLeft(t, r, "d1")
}

// A binary that does not come up changes nothing.
func TestUpgradeToNothing(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	writable := filepath.Join(t.TempDir(), "lvx")
	must(t, os.WriteFile(writable, []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Chmod(writable, 0o777))
	script := filepath.Join(t.TempDir(), "lvx")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\necho lvx is not ready; exit 0\n"), 0o755))
	underLoad(t, r, 1, func(int) {
		for binary, says := range map[string]string{
			"/bin/true":        "does not come up, nothing has changed",
			"/bin/false":       "does not come up, nothing has changed",
			"/nonexistent/lvx": "no such file",
			writable:           "writable by others",
			script:             "lvx is not ready",
		} {
			out, err := r.LVX(t.Context(), "d1", "upgrade", binary)
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %q, %v, want %q", binary, out, err, says)
			}
		}
	})
}

// A reload changes what a daemon is made of, too: it starts anew in place. A
// configuration that does not start leaves the one before in force.
func TestReloadOfEverything(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	change := func(old, with string) {
		t.Helper()
		_, err := r.Config("d1", service(""))
		must(t, err)
		replaceIn(t, file, old, with)
	}
	underLoad(t, r, 1, func(int) {
		// The second change takes the first one back: both keys differ then from what runs.
		for _, c := range []struct{ old, with, changed string }{
			{"services:", "notify: {exec: [/bin/true]}\nservices:", "notify"},
			{"admin: {", "admin: {listen: \"127.0.0.1:9100\", ", "notify, admin"},
		} {
			change(c.old, c.with)
			diff, err := r.LVX(t.Context(), "d1", "diff")
			if want := c.changed + ": changed: lvx starts anew in place"; !strings.Contains(diff, want) {
				t.Errorf("diff does not say %q: %s, %v", want, diff, err)
			}
			out, err := r.LVX(t.Context(), "d1", "reload")
			if err != nil || !strings.Contains(out, c.changed) {
				t.Errorf("%s: %v\n%s", c.changed, err, out)
			}
		}
		change("admin: {socket: "+r.Socket("d1"), "admin: {socket: /proc/nothing/lvx.sock")
		if out, err := r.LVX(t.Context(), "d1", "reload"); err == nil || !strings.Contains(err.Error(), "did not start with it") {
			t.Errorf("a socket that cannot be: %v\n%s", err, out)
		}
		if out, err := r.LVX(t.Context(), "d1", "export"); err != nil || strings.Contains(out, "/proc/nothing") || !strings.Contains(out, r.Socket("d1")) {
			t.Errorf("after that, what runs is not what is exported: %v\n%s", err, out)
		}
		change("pin_dir: ", "pin_dir: /sys/fs/bpf/elsewhere #")
		if out, err := r.LVX(t.Context(), "d1", "reload"); err == nil || !strings.Contains(err.Error(), "pin_dir: changed, which a reload cannot do") {
			t.Errorf("pin_dir: %v\n%s", err, out)
		}
	})
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("in the end: %s", got)
	}
}
