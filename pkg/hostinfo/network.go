package hostinfo

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// MainInterface is the interface of the default route; without one, the only
// Ethernet interface there is.
func MainInterface() (string, error) {
	routes, err := mainRoutes()
	if err != nil {
		return "", fmt.Errorf("routes: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex == 0 || r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return "", fmt.Errorf("interface %d: %w", r.LinkIndex, err)
		}
		return link.Attrs().Name, nil
	}
	links, err := kernellist.Complete(netlink.LinkList)
	if err != nil {
		return "", fmt.Errorf("interfaces: %w", err)
	}
	name := ""
	for _, l := range links {
		if len(l.Attrs().HardwareAddr) != 6 || l.Attrs().Flags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		if name != "" {
			return "", errors.New("no default route, and several interfaces (name one with --interface)")
		}
		name = l.Attrs().Name
	}
	if name == "" {
		return "", errors.New("no Ethernet interface (name one with --interface)")
	}
	return name, nil
}

// WayTo is by which interface an address is reached, "" if no route leads there,
// and whether it is this host's.
func WayTo(a netip.Addr) (device string, isLocal bool) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return "", false
	}
	if routes[0].Type == unix.RTN_LOCAL {
		return "", true
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", false
	}
	return link.Attrs().Name, false
}

// Gateway is the router of the default route; ok is false without one.
func Gateway() (gateway netip.Addr, ok bool) {
	routes, err := mainRoutes()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if gateway, ok = netip.AddrFromSlice(r.Gw.To4()); ok {
				return gateway, true
			}
		}
	}
	return netip.Addr{}, false
}

// Network is the first IPv4 network of an interface.
func Network(name string) (netip.Prefix, bool) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return netip.Prefix{}, false
	}
	list, err := kernellist.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return netip.Prefix{}, false
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		bits, _ := a.Mask.Size()
		if ok && bits < 32 {
			return netip.PrefixFrom(ip, bits), true
		}
	}
	return netip.Prefix{}, false
}

// mainRoutes are those of the main table of IPv4.
func mainRoutes() ([]netlink.Route, error) {
	return kernellist.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
}
