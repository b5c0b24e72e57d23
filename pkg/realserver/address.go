package realserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// find lists the interfaces that have an address.
func find(vip netip.Addr) ([]string, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	var names []string
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); !ok || ip.Unmap() != vip {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("interface %d: %w", a.LinkIndex, err)
		}
		names = append(names, link.Attrs().Name)
	}
	return names, nil
}

// addToLo puts the VIP on lo as a host of its own.
func addToLo(vip netip.Addr) error {
	link, err := netlink.LinkByName(lo)
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}}
	if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address on lo: %w", err)
	}
	return nil
}

// removeFromLo takes the VIP off lo, whatever its prefix length.
func removeFromLo(vip netip.Addr) (gone bool, err error) {
	link, err := netlink.LinkByName(lo)
	if err != nil {
		return false, fmt.Errorf("interface lo: %w", err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("addresses of lo: %w", err)
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); !ok || ip.Unmap() != vip {
			continue
		}
		if err := netlink.AddrDel(link, &netlink.Addr{IPNet: a.IPNet}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, fmt.Errorf("address off lo: %w", err)
		}
		gone = true
	}
	return gone, nil
}

// facing finds the interface that faces the segment of a VIP: that of the
// main table's most specific route. The kernel's own lookup would say lo once
// the VIP is up.
func facing(vip netip.Addr) (string, error) {
	family := netlink.FAMILY_V4
	if vip.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", fmt.Errorf("routes: %w", err)
	}
	index := choose(routes, vip)
	if index == 0 {
		return "", errors.New("no route to its network (name the interface with --interface)")
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("interface %d: %w", index, err)
	}
	return link.Attrs().Name, nil
}

// choose returns the interface of the best route; 0 if there is none.
func choose(routes []netlink.Route, vip netip.Addr) int {
	best, bits, metric := 0, -1, 0
	for _, r := range routes {
		index := r.LinkIndex
		if i := slices.IndexFunc(r.MultiPath, func(n *netlink.NexthopInfo) bool { return n.LinkIndex != 0 }); index == 0 && i >= 0 {
			index = r.MultiPath[i].LinkIndex
		}
		if index == 0 || r.Type != unix.RTN_UNICAST {
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
