package packaging_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// bootMachine boots the Debian at root with its systemd on a host of a
// cluster: in the host's network namespace, with mounts, processes and control
// groups of its own, all of which end with the test. The function that it
// returns runs a command there.
func bootMachine(t *testing.T, h *testenv.Host, root string) func(args ...string) string {
	t.Helper()
	const boot = `set -e
root=$1 group=$2
mkdir -p "$root/tmp/groups"
mount -t cgroup2 none "$root/tmp/groups"
mkdir "$root/tmp/groups/$group"
echo $$ >"$root/tmp/groups/$group/cgroup.procs"
umount "$root/tmp/groups"
exec unshare --mount --uts --ipc --cgroup --pid --fork --kill-child sh -ec '
  root=$1
  mount --bind "$root" "$root" # what a process makes its root is a mount
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t bpf bpf "$root/sys/fs/bpf"
  for dir in run tmp dev; do mount -t tmpfs tmpfs "$root/$dir"; done
  for device in null zero full random urandom tty ptmx; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  cd "$root"
  pivot_root . mnt
  exec env -i container=lvx-test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . sh -ec "umount -l /mnt; exec /lib/systemd/systemd"
' sh "$root"`
	group := "lvx-machine-" + filepath.Base(h.Netns())
	p, err := h.Start("unshare", "-m", "sh", "-c", boot, "sh", root, group)
	if err != nil {
		t.Fatal(err)
	}
	init := func() string {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid(), p.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(children))
	}
	t.Cleanup(func() {
		run(t, "kill", "-KILL", init()) // and with it everything in its namespace
		_ = p.Wait()
		run(t, "unshare", "-m", "sh", "-c", `mount -t cgroup2 none "$1" && find "$1/$2" -depth -type d -exec rmdir {} +`, "sh", t.TempDir(), group)
	})
	in := func(ctx context.Context, args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "nsenter", append([]string{
			"-t", init(), "-a", "-r", "env", "-i", "-C", "/", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		}, args...)...).CombinedOutput()
		return string(out), err
	}
	if err := rig.Await(t.Context(), func() error {
		out, err := in(t.Context(), "systemctl", "is-system-running")
		// A kernel may refuse a unit that lvx does not need.
		if state := strings.TrimSpace(out); state == "running" || state == "degraded" {
			return nil
		}
		return fmt.Errorf("the machine is %q: %v\n%s", out, err, p.Output())
	}); err != nil {
		t.Fatal(err)
	}
	return func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also of a test that has ended
		defer cancel()
		out, err := in(ctx, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
}
