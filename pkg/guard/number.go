package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// maxNumberText is more than a file that holds a number can be long, and
// maxNumber the largest number that counts.
const (
	maxNumberText = 64
	maxNumber     = 65535
)

// ReadNumber reads a file that holds a whole number, as the files do that
// keepalived tracks. A file that does not exist, or is empty, holds 0. It is read within
// the time of ctx (see [Bounded]).
func ReadNumber(ctx context.Context, path string) (int, error) {
	b, err := Bounded(ctx, path, func() ([]byte, error) { return ReadFile(path, maxNumberText) })
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
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
