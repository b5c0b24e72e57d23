// Package jsonfile keeps one small value in a JSON file: notes that help a
// later start, and that nothing may depend on.
//
// A file is replaced as a whole, and what it replaces it with has reached the
// disk before it has the name: a power cut leaves the old value or the new
// one. No symbolic link is followed at the file's name and nothing that is
// there is written to, so that a directory that others can write to does not
// lead root elsewhere. A file that cannot be understood is moved to
// NAME.broken-TIME, where it is in nobody's way and can be looked at.
//
// It does not interpret what it stores, and does not lock: one process at a
// time owns a file.
package jsonfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// MaxSize is the most that [Read] takes from a file, in bytes.
const MaxSize = 128 << 20

// BrokenError says that a file was there and could not be understood.
type BrokenError struct {
	Path    string
	MovedTo string // "" if it could not be moved aside
	Err     error  // what is wrong with it
}

// Error implements error.
func (e *BrokenError) Error() string {
	if e.MovedTo == "" {
		return fmt.Sprintf("%s: %v (left there: it could not be moved aside)", e.Path, e.Err)
	}
	return fmt.Sprintf("%s: %v (moved to %s)", e.Path, e.Err, e.MovedTo)
}

// Unwrap returns what is wrong with the file.
func (e *BrokenError) Unwrap() error { return e.Err }

// Read reads the value of a file into v. The error is [fs.ErrNotExist] if
// there is no file, and a [BrokenError] if there is one that does not hold
// such a value; v may then be partly filled.
func Read(path string, v any) error {
	b, err := read(path)
	if err == nil {
		if err = Unmarshal(b, v); err != nil {
			err = SetAside(path, err)
		}
	}
	return err
}

// Load is the content of a file, for [Unmarshal]. One that cannot be meant is moved
// aside.
func Load(path string) ([]byte, error) { return read(path) }

// Unmarshal reads what a file holds. The error says what is wrong with it.
func Unmarshal(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return describe(b, err)
	}
	return nil
}

// Within reads with read, which has limit for it: a disk may not answer for
// ever. What read returns later is dropped.
func Within[T any](limit time.Duration, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() { // may hang in a system call for ever
		v, err := read()
		done <- result{v, err}
	}()
	end := time.NewTimer(limit)
	defer end.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-end.C:
		var none T
		return none, fmt.Errorf("the disk has not answered for %v", limit)
	}
}

// Check reports what is wrong with a file that holds JSON: nil if nothing is,
// or if there is none. It changes nothing.
func Check(path string) error {
	b, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var v any
	if err == nil {
		err = Unmarshal(b, &v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// describe names the usual remains of a power cut.
func describe(b []byte, err error) error {
	if len(b) == 0 {
		return errors.New("empty file")
	}
	for _, c := range b {
		if c != 0 {
			return err
		}
	}
	return fmt.Errorf("%d zero bytes", len(b))
}

// unusable is what a file can be that is not read.
type unusable string

func (u unusable) Error() string { return string(u) }

// read is the content of a file. One that cannot be meant is moved aside.
func read(path string) ([]byte, error) {
	b, err := open(path)
	var u unusable
	if errors.As(err, &u) {
		return nil, SetAside(path, u)
	}
	return b, err
}

func open(path string) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would keep the reader waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, unusable("a symbolic link")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, unusable("not a regular file")
	}
	if st.Size() > MaxSize {
		return nil, unusable(fmt.Sprintf("more than %d bytes", MaxSize))
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxSize {
		return nil, unusable(fmt.Sprintf("more than %d bytes", MaxSize))
	}
	return b, nil
}

// SetAside moves a file whose value makes no sense to NAME.broken-TIME and
// returns the error that says so. It is for owners that look closer at a
// value than [Read] can.
func SetAside(path string, cause error) *BrokenError {
	e := &BrokenError{Path: path, Err: cause}
	to := path + ".broken-" + time.Now().UTC().Format("20060102T150405Z")
	if err := os.Rename(path, to); err == nil {
		e.MovedTo = to
	}
	return e
}

// Write replaces the value of a file, and makes the file's directory if there
// is none. When it returns, the value has reached the disk.
func Write(path string, v any, perm fs.FileMode) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return Replace(path, append(b, '\n'), perm)
}

// Replace is Write for what is not JSON. perm is the file's whatever the umask.
func Replace(path string, b []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// What a write that was cut short left behind, or what somebody planted.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(fresh) // the error that counts is the first one
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = errors.Join(f.Chmod(perm), f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// Remove removes a file; that there is none is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a change of names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
