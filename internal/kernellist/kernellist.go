// Package kernellist has whole lists of the kernel by netlink: of addresses,
// routes, rules, neighbours and interfaces. A list that changed while the kernel
// gave it may lack entries, and is marked so.
//
// It asks the kernel for nothing by itself, and changes nothing.
package kernellist

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// mostTries bounds how often a list is asked for that changes each time.
const mostTries = 50

// Complete asks for a list until the kernel has given one that nothing changed
// meanwhile (NLM_F_DUMP_INTR, netlink(7)). Of a list that never holds still it
// returns what came last, with [netlink.ErrDumpInterrupted].
func Complete[T any](ask func() ([]T, error)) (list []T, err error) {
	for range mostTries {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}
