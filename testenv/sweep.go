package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	prefix   = "lvxt-"
	netnsDir = "/run/netns"
	bpffs    = "/sys/fs/bpf"
)

// self names this process uniquely: its number and, because numbers are used
// again, its start time.
func self() string {
	pid := os.Getpid()
	return fmt.Sprintf("%d-%s", pid, startTime(pid))
}

// startTime is when a process began, in clock ticks since boot (field 22 of
// /proc/PID/stat) and base 36; empty if there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name in field 2 may hold spaces and brackets.
	_, rest, _ := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), " ")
	const start = 22 - 3
	fields := strings.Fields(rest)
	if len(fields) <= start || fields[0] == "Z" {
		return ""
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return ""
	}
	return strconv.FormatUint(ticks, 36)
}

// orphan returns the cluster that a name belongs to ("lvxt-PID-START-N"), if
// that cluster's owner is dead.
func orphan(name string) (cluster string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", false
	}
	parts := strings.SplitN(rest, "-", 4)
	if len(parts) < 3 {
		return "", false
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil || startTime(pid) == parts[1] {
		return "", false
	}
	return prefix + strings.Join(parts[:3], "-"), true
}

// Sweep removes what clusters whose owner is dead left behind: processes,
// namespaces, directories and pins. It leaves those of the living alone, so
// that several test binaries can run at once.
func Sweep() error {
	clusters := map[string]bool{}
	for _, dir := range []string{netnsDir, bpffs, os.TempDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if c, ok := orphan(e.Name()); ok {
				clusters[c] = true
			}
		}
	}
	var errs []error
	for c := range clusters {
		errs = append(errs, removeLeftovers(c))
	}
	return errors.Join(errs...)
}

// removeLeftovers removes everything whose name begins with the cluster's.
func removeLeftovers(cluster string) error {
	var errs []error
	spaces, _ := filepath.Glob(filepath.Join(netnsDir, cluster+"-*"))
	for _, s := range spaces {
		errs = append(errs, removeNamespace(filepath.Base(s)))
	}
	pins, _ := filepath.Glob(filepath.Join(bpffs, cluster+"-*"))
	for _, dir := range append(pins, filepath.Join(os.TempDir(), cluster)) {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// removeNamespace kills every process in the namespace and takes its name
// away. A namespace that is gone is no error: two sweeps may meet.
func removeNamespace(name string) error {
	path := filepath.Join(netnsDir, name)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	if err := killInside(st); err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	err := netns.DeleteNamed(name)
	if errors.Is(err, unix.EINVAL) { // not mounted: its making was cut short
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	return nil
}

// killInside kills all processes of a network namespace and waits for them to
// be gone.
func killInside(ns unix.Stat_t) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		pids := inside(ns)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v survive SIGKILL", pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// inside lists the processes whose network namespace is ns. This process may
// have threads there, but it does not live there.
func inside(ns unix.Stat_t) []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, l := range links {
		var st unix.Stat_t
		if unix.Stat(l, &st) != nil || st.Dev != ns.Dev || st.Ino != ns.Ino {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(l, "/")[2])
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// mountBPF makes sure that bpffs is mounted, once for all processes that may
// ask at the same time.
func mountBPF() error {
	if isBPF() {
		return nil
	}
	lock, err := os.OpenFile("/run/"+prefix+"bpffs.lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock for bpffs: %w", err)
	}
	if isBPF() {
		return nil
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", bpffs, err)
	}
	return nil
}

func isBPF() bool {
	var st unix.Statfs_t
	return unix.Statfs(bpffs, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}
