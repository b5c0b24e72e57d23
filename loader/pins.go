package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// pinDir is the directory on a bpffs that holds maps, under their plain
// names, and links, as "link_IFACE".
type pinDir string

const linkPrefix = "link_"

// ErrLocked is returned by [Open] when another process uses the pin
// directory.
var ErrLocked = errors.New("another lvx uses it")

// openPinDir makes the directory, mounts a bpffs if there is none, and locks
// it for the life of the returned file.
func openPinDir(path string) (pinDir, *os.File, error) {
	if err := ensureBPFFS(path); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", nil, fmt.Errorf("pin directory: %w", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return "", nil, fmt.Errorf("pin directory: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", nil, fmt.Errorf("pin directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return "", nil, fmt.Errorf("pin directory %s: %w", path, ErrLocked)
	}
	return pinDir(path), f, nil
}

// ensureBPFFS mounts a bpffs on /sys/fs/bpf if path would be on it and
// nothing is there yet, as a bare system has it.
func ensureBPFFS(path string) error {
	var st unix.Statfs_t
	at := path
	for {
		err := unix.Statfs(at, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == "/" {
			return fmt.Errorf("pin directory %s: %w", path, err)
		}
		at = filepath.Dir(at)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	const root = "/sys/fs/bpf"
	if path != root && !strings.HasPrefix(path, root+"/") {
		return fmt.Errorf("pin directory %s: not on a bpffs (mount one, or use a directory below %s)", path, root)
	}
	if err := unix.Mount("bpf", root, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs on %s: %w", root, err)
	}
	return nil
}

func (p pinDir) file(name string) string { return filepath.Join(string(p), name) }

func (p pinDir) link(iface string) string { return p.file(linkPrefix + pinName(iface)) }

// pinName makes an interface name fit for a bpffs, which refuses dots
// (eth0.10 is a VLAN interface).
func pinName(iface string) string { return strings.ReplaceAll(iface, ".", "%2e") }

// linked lists the interfaces that have a pinned link.
func (p pinDir) linked() ([]string, error) {
	entries, err := os.ReadDir(string(p))
	if err != nil {
		return nil, fmt.Errorf("pin directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), linkPrefix); ok {
			names = append(names, strings.ReplaceAll(name, "%2e", "."))
		}
	}
	return names, nil
}

// remove takes the directory and all its pins away. What is gone already is
// not an error.
func (p pinDir) remove() error {
	entries, err := os.ReadDir(string(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	for _, e := range entries {
		if err := os.Remove(p.file(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin: %w", err)
		}
	}
	if err := os.Remove(string(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pin directory: %w", err)
	}
	return nil
}

// CheckUnused returns [ErrLocked] if a process uses a pin directory.
func CheckUnused(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, lock, err := openPinDir(path)
	if err != nil {
		return err
	}
	return lock.Close()
}

// Purge detaches what a process that has ended left attached by the pins of a
// directory, and removes them. That there is nothing is no error; a process
// that still uses them is one.
func Purge(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dir, lock, err := openPinDir(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	names, err := dir.linked()
	if err != nil {
		return err
	}
	for _, name := range names { // first: then no packet needs the maps
		if err := dir.detach(name); err != nil {
			return fmt.Errorf("detach from %s: %w", name, err)
		}
	}
	return dir.remove()
}

// detach takes the program of a pinned link off its interface.
func (p pinDir) detach(name string) error {
	l, err := link.LoadPinnedLink(p.link(name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Join(err, os.Remove(p.link(name)))
	}
	return p.endLink(name, l)
}

// endLink takes the program of the link of an interface off, and its pin away.
func (p pinDir) endLink(name string, l link.Link) error {
	err := detachAtOnce(l)
	if e := os.Remove(p.link(name)); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// detachAtOnce takes the program of a link off. The kernel itself would do that
// some time after the last pin and descriptor of the link have gone, and whoever
// attaches by then would meet the program.
func detachAtOnce(l link.Link) error { return errors.Join(l.Detach(), l.Close()) }

// IsAttached reports whether a pin directory holds the link of any interface.
func IsAttached(dir string) bool {
	names, err := pinDir(dir).linked()
	return err == nil && len(names) > 0
}

// IsPinned reports whether a pin directory holds the link of an interface: the
// program that is attached there is lvx's.
func IsPinned(dir, iface string) bool {
	_, err := os.Lstat(pinDir(dir).link(iface))
	return err == nil
}
