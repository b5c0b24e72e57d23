package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// maxNumber is more than a file that holds a number can be long.
const maxNumber = 64

// fileChecker reads a number that something on this host writes into a file
// (keepalived's FILE_CHECK with its track_file). Without a factor any number
// but 0 takes the real down; with one, the number times the factor is added to
// the real's weight.
type fileChecker struct {
	path   string
	factor int
	weight Weight
}

func newFile(t Target) (Checker, error) {
	if !strings.HasPrefix(t.Spec.File, "/") {
		return nil, fmt.Errorf("file check: %q (want the absolute path of a file)", t.Spec.File)
	}
	return &fileChecker{path: t.Spec.File, factor: t.Spec.Factor}, nil
}

// Check reads the file. It is called from where programs run: a file system
// may hang.
func (c *fileChecker) Check(context.Context) error {
	n, err := ReadNumber(c.path)
	if err != nil {
		return fmt.Errorf("file: %w", err)
	}
	c.weight = Weight{}
	switch {
	case c.factor != 0:
		c.weight = Weight{Value: n * c.factor}
	case n != 0:
		return fmt.Errorf("file %s: %d (want 0)", guard.Text(c.path), n)
	}
	return nil
}

// Weight implements [Weigher].
func (c *fileChecker) Weight() Weight { return c.weight }

// ReadNumber reads a file that holds a whole number, as the files have that
// keepalived tracks. A file that does not exist, or is empty, holds 0.
func ReadNumber(path string) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNumber))
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < -maxWeight || n > maxWeight {
		return 0, fmt.Errorf("%s holds %q (want a whole number)", path, guard.Text(text))
	}
	return n, nil
}

// maxWeight is the largest weight that a real server can have.
const maxWeight = 65535
