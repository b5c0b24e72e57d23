package guard

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxNumberText is more than a file that holds a number can be long, and
// maxNumber the largest number that counts.
const (
	maxNumberText = 64
	maxNumber     = 65535
)

// ReadNumber reads a file that holds a whole number, as the files do that
// keepalived tracks. A file that does not exist, or is empty, holds 0.
func ReadNumber(path string) (int, error) {
	// Without O_NONBLOCK a named pipe would keep the reader waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNumberText))
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < -maxNumber || n > maxNumber {
		return 0, fmt.Errorf("%s holds %q (want a whole number)", path, Text(text))
	}
	return n, nil
}
