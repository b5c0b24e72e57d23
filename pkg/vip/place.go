package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// BootID is the kernel's name for the time since the machine came up. What is
// remembered of addresses and settings counts for one boot: none of them
// survives it.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot identifier: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Networks says which networks each interface is in, by its addresses.
type Networks map[string][]netip.Prefix

// ReadNetworks reads the networks of interfaces; one that does not exist is in
// none.
func ReadNetworks(interfaces []string) (Networks, error) {
	n := Networks{}
	for _, name := range interfaces {
		link, err := netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		list, _, err := List(link.Attrs().Index)
		if err != nil {
			return nil, err
		}
		n[name] = list
	}
	return n, nil
}

// Choose returns the interface among the given ones that an address belongs
// to: the one whose network holds it, the smallest network if there are
// several, else the first of the list. An address that is a host of its own is
// no network.
func (n Networks) Choose(interfaces []string, a netip.Addr) string {
	if len(interfaces) == 0 {
		return ""
	}
	best, bits := interfaces[0], -1
	for _, name := range interfaces {
		for _, p := range n[name] {
			if p.Bits() < p.Addr().BitLen() && p.Bits() > bits && p.Contains(a) {
				best, bits = name, p.Bits()
			}
		}
	}
	return best
}
