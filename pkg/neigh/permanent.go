package neigh

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// neighbour is an address on an interface.
type neighbour struct {
	ifindex int
	addr    netip.Addr
}

// permanentEntries are the MACs that somebody has put into the kernel's
// neighbour table by hand.
func (h *liveNetwork) permanentEntries() (map[neighbour]MAC, error) {
	found := map[neighbour]MAC{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := kernellist.Complete(func() ([]netlink.Neigh, error) { return h.handle.NeighList(0, family) })
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("neighbours: %w", err)
		}
		for _, n := range list {
			addr, ok := netip.AddrFromSlice(n.IP)
			mac, valid := macFrom(n.HardwareAddr)
			if ok && valid && n.State&unix.NUD_PERMANENT != 0 {
				found[neighbour{n.LinkIndex, addr.Unmap()}] = mac
			}
		}
	}
	return found, nil
}

// missingMAC says why no MAC can be found on the way, "" if one can.
func (p path) missingMAC() string {
	switch {
	case p.mac == MAC{}:
		return p.device + " is not an Ethernet interface (no ARP on it)"
	case p.noARP && p.fixed == MAC{}:
		return p.device + " does no ARP (give the real server's MAC: mac:, or ip neigh add … nud permanent)"
	}
	return ""
}
