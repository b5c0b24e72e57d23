package health

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/pkg/guard"
)

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
func (c *fileChecker) Check(ctx context.Context) error {
	n, err := guard.ReadNumber(ctx, c.path)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, guard.ErrUnending) {
		return stageFailure("file", err)
	}
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
