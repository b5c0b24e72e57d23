package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// In a fresh boot's /run, a namespace of ours can be removed although ip made
// the first one of its own in the meantime.
func TestFirstNamespaceAfterABoot(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread's mounts end with it
		done <- freshBoot()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func freshBoot() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("fresh /run: %w", err)
	}
	before := netnsDirMounts()
	for range 2 {
		if err := shareNetnsDir(); err != nil {
			return err
		}
	}
	if n := netnsDirMounts() - before; n != 1 {
		return fmt.Errorf("%s was mounted %d times", netnsDir, n)
	}
	ours, err := netns.NewNamed("ours")
	if err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	defer ours.Close()
	if out, err := exec.Command("ip", "netns", "add", "theirs").CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns add: %w: %s", err, out)
	}
	return netns.DeleteNamed("ours")
}

func netnsDirMounts() int {
	b, _ := os.ReadFile("/proc/thread-self/mountinfo") // an error shows as 0
	return strings.Count(string(b), " "+netnsDir+" ")
}
