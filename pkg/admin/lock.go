package admin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultLockDir is where locks are.
const DefaultLockDir = "/run/lvx"

// dying is how long a killed process may take to let go of its lock: its
// tables are unmapped first.
const dying = 500 * time.Millisecond

// Lock makes sure that one daemon at a time works on a pin directory. The
// lock is the kernel's (flock): it ends with the process, however that ends.
// Close the result to unlock; that removes the file. A daemon that was killed
// takes a moment to end: it is waited for.
func Lock(dir, pinDir string) (io.Closer, error) {
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	path := lockPath(dir, pinDir)
	for began := time.Now(); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			holder, _ := io.ReadAll(io.LimitReader(f, 20))
			f.Close()
			if time.Since(began) < dying {
				time.Sleep(dying / 50)
				continue
			}
			return nil, fmt.Errorf("another lvx runs with pin_dir %s (process %s; stop it, or set another pin_dir)",
				pinDir, strings.TrimSpace(string(holder)))
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !isAt(f, path) { // whoever had it removed it between open and flock
			f.Close()
			continue
		}
		if err := f.Truncate(0); err == nil {
			_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0) // only for the message above
		}
		return &lock{f, path}, nil
	}
}

// lockPath is the file whose lock stands for a pin directory.
func lockPath(dir, pinDir string) string {
	return filepath.Join(dir, strings.ReplaceAll(strings.Trim(filepath.Clean(pinDir), "/"), "/", "-")+".lock")
}

// LockHolder is the number of the process that has the lock of a pin directory, ""
// if none has.
func LockHolder(dir, pinDir string) string {
	f, err := os.OpenFile(lockPath(dir, pinDir), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return "" // closing it gives the lock back
	}
	holder, _ := io.ReadAll(io.LimitReader(f, 20))
	return strings.TrimSpace(string(holder))
}

// isAt reports whether f is the file that path names now.
func isAt(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

type lock struct {
	*os.File
	path string
}

// Close removes the file while it is locked, so that nobody can lock it and
// lose it.
func (l *lock) Close() error {
	return errors.Join(os.Remove(l.path), l.File.Close())
}

// makeDir makes a directory for root and its group. One that is there keeps
// its mode: it may be anybody's.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.Chmod(dir, 0o750) // whatever the umask
}
