package kernellist

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

// A list that changed while it was read is read again; another error is not.
func TestListThatChangesIsAskedForAgain(t *testing.T) {
	other := errors.New("other")
	for name, c := range map[string]struct {
		errs  []error // of the first questions; then nil
		asked int
		want  error
	}{
		"at once":             {nil, 1, nil},
		"changed twice":       {[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted}, 3, nil},
		"another error":       {[]error{other}, 1, other},
		"changed, then wrong": {[]error{netlink.ErrDumpInterrupted, other}, 2, other},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			list, err := Complete(func() ([]int, error) {
				asked++
				if asked <= len(c.errs) {
					return nil, c.errs[asked-1]
				}
				return []int{7}, nil
			})
			if !errors.Is(err, c.want) || asked != c.asked || (err == nil) != (len(list) == 1) {
				t.Errorf("%v, %v after %d questions, want %v after %d", list, err, asked, c.want, c.asked)
			}
		})
	}
	always := func() ([]int, error) { return nil, netlink.ErrDumpInterrupted }
	if _, err := Complete(always); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("a list that never holds still: %v", err)
	}
}
