package vip

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// mostDumps bounds how often a list is asked for that changes each time.
const mostDumps = 50

// Complete asks the kernel for a list until it has given one that nothing changed
// meanwhile: one that it was interrupted in may lack entries, and says so
// (NLM_F_DUMP_INTR, netlink(7)). A list that never holds still is an error.
func Complete[T any](ask func() ([]T, error)) (list []T, err error) {
	for range mostDumps {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

// Addresses lists the addresses of an interface, of all of them if link is nil.
func Addresses(link netlink.Link) ([]netlink.Addr, error) {
	return Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
}

// routesOf lists the routes that a filter of the library takes.
func routesOf(family int, like *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return Complete(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(family, like, mask) })
}
