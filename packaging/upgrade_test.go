package packaging_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// loadShare is how much of the full load a run has: LVX_LOAD=1 is 500 short
// connections a second beside 300 long ones and 20 upgrades, else a tenth.
func loadShare(full int) int {
	part, err := strconv.ParseFloat(os.Getenv("LVX_LOAD"), 64)
	if err != nil {
		part = 0.1
	}
	return max(1, int(part*float64(full)))
}

// olderPackage makes of a package one of an earlier version, with a binary
// that says so.
func olderPackage(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	tree, older := filepath.Join(dir, "tree"), filepath.Join(dir, "older.deb")
	run(t, "dpkg-deb", "-R", deb, tree)
	run(t, "sed", "-i", "s/^Version: .*/Version: 0.0.0~earlier/", filepath.Join(tree, "DEBIAN/control"))
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=earlier", "-o", filepath.Join(tree, "usr/bin/lvx"), "./cmd/lvx")
	run(t, "dpkg-deb", "--root-owner-group", "-b", tree, older)
	return older
}

// testPackageUpgrades installs the package on a Debian that runs systemd, as
// the director of a cluster, and upgrades it again and again beside a load of
// which nothing is lost. A purge takes lvx away, the packet path included.
func testPackageUpgrades(t *testing.T, root, deb string) {
	older := olderPackage(t, deb)
	run(t, "cp", deb, filepath.Join(root, "newer.deb"))
	run(t, "cp", older, filepath.Join(root, "older.deb"))

	self := filepath.Join(t.TempDir(), "lvx")
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", self, "./cmd/lvx")
	r, err := rig.New(t.Context(), self, testenv.Shape{Directors: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	in := bootMachine(t, r.Cluster.Host("d1"), root)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(in("journalctl", "--no-pager", "-n", "100"))
		}
	})

	in("dpkg", "-i", "/older.deb")
	if got := in("sh", "-c", "systemctl is-enabled lvx; systemctl is-active lvx; true"); got != "disabled\ninactive\n" {
		t.Errorf("a first installation leaves the unit %q", got)
	}
	config := "interface: eth0\nservices:\n  - name: web\n    listen: [\"" + rig.VIP + ":80/tcp\"]\n    scheduler: rr\n" +
		"    reals:\n      - {address: 172.25.0.12}\n      - {address: 172.25.0.13}\n"
	if err := os.WriteFile(filepath.Join(root, "etc/lvx/lvx.yaml"), []byte(config), 0o640); err != nil {
		t.Fatal(err)
	}
	in("systemctl", "enable", "--now", "lvx")
	if got := in("lvx", "version"); !strings.HasPrefix(got, "lvx earlier ") {
		t.Fatalf("the earlier package runs %q", got)
	}

	load, err := r.Load(rig.Demand{PerSecond: loadShare(500), Long: loadShare(300), Most: 200_000})
	if err != nil {
		t.Fatal(err)
	}
	times := loadShare(20)
	for i := range times {
		before := in("systemctl", "show", "-p", "MainPID", "lvx")
		in("dpkg", "--force-downgrade", "--force-confold", "-i", []string{"/newer.deb", "/older.deb"}[i%2])
		if after := in("systemctl", "show", "-p", "MainPID", "lvx"); after == before {
			t.Errorf("upgrade %d has not restarted the daemon", i)
		}
		if err := load.Await(t.Context(), 12); err != nil {
			t.Fatal(err)
		}
	}
	summary, err := load.Stop()
	t.Logf("%d upgrades: %s", times, summary)
	if err != nil {
		t.Error(err)
	}

	in("dpkg", "-P", "lvx")
	if left := strings.TrimSpace(in("find", "/usr", "/etc", "/lib/", "/var", "/run", "/sys/fs/bpf", "-name", "*lvx*", "-not", "-path", "/var/log/*")); left != "" {
		t.Errorf("a purge leaves\n%s", left)
	}
	if link := run(t, "ip", "-n", r.Cluster.Host("d1").Netns(), "addr", "show", "eth0"); strings.Contains(link, "xdp") || strings.Contains(link, rig.VIP) {
		t.Errorf("a purge leaves on the interface\n%s", link)
	}
}
