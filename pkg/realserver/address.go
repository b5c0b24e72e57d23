package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	"github.com/lvx-lb/lvx/pkg/vip"
)

// found is an interface that has an address.
type found struct {
	name   string
	noARP  bool // nobody is answered there: a dummy interface
	prefix netip.Prefix
	scope  int // RT_SCOPE_HOST: arp_ignore=3 is silent about it
}

// find lists the interfaces that have an address.
func find(addr netip.Addr) ([]found, error) {
	list, err := kernellist.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	var places []found
	for _, a := range list {
		prefix := vip.PrefixOf(a)
		if prefix.Addr() != addr {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("interface %d: %w", a.LinkIndex, err)
		}
		places = append(places, found{link.Attrs().Name, link.Attrs().RawFlags&unix.IFF_NOARP != 0, prefix, a.Scope})
	}
	return places, nil
}

// on returns the place on an interface.
func on(places []found, name string) (found, bool) {
	i := slices.IndexFunc(places, func(f found) bool { return f.name == name })
	if i < 0 {
		return found{}, false
	}
	return places[i], true
}

// addToLo puts the VIP on lo as a host of its own.
func addToLo(addr netip.Addr) error {
	link, err := netlink.LinkByName(lo)
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	_, err = vip.Add(link.Attrs().Index, []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())})
	return err
}

// removeFromLo takes the VIP off lo, whatever its prefix length, and reports
// whether it was there.
func removeFromLo(addr netip.Addr) (was bool, err error) {
	link, err := netlink.LinkByName(lo)
	if err != nil {
		return false, fmt.Errorf("interface lo: %w", err)
	}
	list, _, err := vip.List(link.Attrs().Index)
	if err != nil || !vip.Has(list, addr) {
		return false, err
	}
	return true, vip.Remove(link.Attrs().Index, []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())})
}

// facing finds the interface that faces the segment of a VIP: that of the
// main table's most specific route. The kernel's own lookup would say lo once
// the VIP is up.
func facing(vip netip.Addr) (string, error) {
	family := netlink.FAMILY_V4
	if vip.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := kernellist.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return "", fmt.Errorf("routes: %w", err)
	}
	loopback, err := netlink.LinkByName(lo)
	if err != nil {
		return "", fmt.Errorf("interface lo: %w", err)
	}
	index := choose(routes, vip, loopback.Attrs().Index)
	if index == 0 {
		return "", errors.New("no route to its network (name the interface with --interface)")
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("interface %d: %w", index, err)
	}
	return link.Attrs().Name, nil
}

// choose returns the interface of the best route that is not one to loopback, where a
// VIP of IPv6 has one once it is up; 0 if there is none.
func choose(routes []netlink.Route, vip netip.Addr, loopback int) int {
	best, bits, metric := 0, -1, 0
	for _, r := range routes {
		index := r.LinkIndex
		if i := slices.IndexFunc(r.MultiPath, func(n *netlink.NexthopInfo) bool { return n.LinkIndex != 0 }); index == 0 && i >= 0 {
			index = r.MultiPath[i].LinkIndex
		}
		if index == 0 || index == loopback || r.Type != unix.RTN_UNICAST {
			continue
		}
		ones := 0
		if r.Dst != nil {
			if !r.Dst.Contains(vip.AsSlice()) {
				continue
			}
			ones, _ = r.Dst.Mask.Size()
		}
		if ones > bits || ones == bits && r.Priority < metric {
			best, bits, metric = index, ones, r.Priority
		}
	}
	return best
}
