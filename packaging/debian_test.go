package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Debian 12 that has only git, make and ca-certificates: the README's
// command brings what it needs, Go included, and the demo's checks hold. A
// package is installed there and leaves nothing behind; with systemd it is
// upgraded under load.
func TestDebian12(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	run(t, "debootstrap", "--variant=minbase", "--include=git,make,ca-certificates", "bookworm", root)
	run(t, "git", "clone", "-q", ".", filepath.Join(root, "src"))
	// What a machine behind a proxy of its own has besides: its name server,
	// the certificates it trusts, and here what it has of modules, and of their
	// compiling, already.
	for _, file := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, file), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	modules := filepath.Join(strings.TrimSpace(run(t, "go", "env", "GOMODCACHE")), "cache", "download")
	compiled := strings.TrimSpace(run(t, "go", "env", "GOCACHE"))
	proxies := "file:///modules," + strings.TrimSpace(run(t, "go", "env", "GOPROXY"))
	// The mounts are the chroot's own and end with it.
	in := func(args ...string) string {
		t.Helper()
		const enter = `mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev" &&
mkdir -p "$1/modules" "$1/compiled" && mount --bind "$2" "$1/modules" && mount --bind "$3" "$1/compiled" &&
root=$1 && shift 3 && exec chroot "$root" "$@"`
		return run(t, "unshare", append([]string{
			"-m", "sh", "-c", enter, "sh", root, modules, compiled,
			"env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOPROXY=" + proxies, "GOCACHE=/compiled",
		}, args...)...)
	}

	demo := in("make", "-C", "/src", "demo")
	if !strings.Contains(demo, "checks ok") {
		t.Errorf("make demo:\n%s", demo)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/local/go")); err == nil {
		t.Error("Go was put into a directory of the system")
	}

	debs := built(t, "deb", "_"+strings.TrimSpace(run(t, "dpkg", "--print-architecture"))+".deb")
	run(t, "cp", debs[0], filepath.Join(root, "lvx.deb"))
	in("dpkg", "-i", "/lvx.deb")
	if got := in("lvx", "version"); !strings.HasPrefix(got, "lvx ") {
		t.Errorf("the installed lvx says %q", got)
	}
	if got := in("sh", "-c", "ipvsadm --version; readlink -f /usr/sbin/ipvsadm-save /usr/sbin/ipvsadm-restore"); !strings.HasPrefix(got, "ipvsadm v1.31") ||
		!strings.HasSuffix(got, "/usr/bin/lvx\n/usr/bin/lvx\n") {
		t.Errorf("the names of ipvsadm lead to\n%s", got)
	}
	in("dpkg", "-P", "lvx")
	if left := strings.TrimSpace(in("find", "/usr/sbin", "/etc/alternatives", "-name", "ipvsadm*")); left != "" {
		t.Errorf("a purge leaves\n%s", left)
	}
	// Another package's ipvsadm is not touched.
	in("sh", "-c", "echo theirs >/usr/sbin/ipvsadm")
	if got := in("dpkg", "-i", "/lvx.deb"); !strings.Contains(got, "/usr/sbin/ipvsadm is another package's and stays") {
		t.Errorf("installed beside another ipvsadm: %s", got)
	}
	in("dpkg", "-P", "lvx")
	if got := in("sh", "-c", "cat /usr/sbin/ipvsadm*"); got != "theirs\n" {
		t.Errorf("of another package's ipvsadm there is left: %q", got)
	}
	if left := strings.TrimSpace(in("find", "/usr", "/etc", "/lib/", "/var", "-name", "*lvx*")); left != "" {
		t.Errorf("a purge leaves\n%s", left)
	}

	in("sh", "-c", "DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends init systemd dbus")
	t.Run("upgrades under load", func(t *testing.T) { testPackageUpgrades(t, root, debs[0]) })
}
