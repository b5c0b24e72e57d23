package guard

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ReadFile reads a regular file of at most longest bytes that the operator
// names. It does not wait for what may never come: a pipe or a device is
// refused.
func ReadFile(path string, longest int64) ([]byte, error) {
	f, _, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, longest)
}

// ReadSecret is [ReadFile] for what nobody else may know: a file that its
// group or others can read is refused.
func ReadSecret(path string, longest int64) ([]byte, error) {
	f, mode, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others can read it (chmod 600 %s)", path, mode.Perm(), path)
	}
	return readAll(f, longest)
}

func openFile(path string) (*os.File, os.FileMode, error) {
	// Without O_NONBLOCK a named pipe would keep the reader waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Mode(), nil
}

func readAll(f *os.File, longest int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err == nil && int64(len(b)) > longest {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), longest)
	}
	return b, err
}
