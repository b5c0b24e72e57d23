package loader

import (
	"errors"

	"golang.org/x/sys/unix"
)

// busy reports whether the kernel says that the hook is taken.
func busy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }
