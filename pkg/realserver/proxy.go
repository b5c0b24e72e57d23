package realserver

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// proxyFaults lists the interfaces that answer solicitations for an IPv6 VIP
// because they are its proxy: forwarding and proxy_ndp are on, and there is an
// entry for it (ndisc_recv_ns in net/ipv6/ndisc.c). Apart from that, the kernel
// answers for what the asked interface has itself alone.
func proxyFaults(vip netip.Addr) (faults []string, err error) {
	list, err := netlink.NeighProxyList(0, netlink.FAMILY_V6)
	if err != nil {
		return nil, fmt.Errorf("proxies of Neighbour Discovery: %w", err)
	}
	for _, n := range list {
		if a, _ := netip.AddrFromSlice(n.IP); a != vip {
			continue
		}
		link, err := netlink.LinkByIndex(n.LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("interface %d: %w", n.LinkIndex, err)
		}
		name := link.Attrs().Name
		if isIPv6On(name, "forwarding") && (isIPv6On("all", "proxy_ndp") || isIPv6On(name, "proxy_ndp")) {
			faults = append(faults, fmt.Sprintf("answered for on %s by proxy_ndp (ip -6 neigh del proxy %s dev %s)", name, vip, name))
		}
	}
	return faults, nil
}

// isIPv6On reports whether a setting of IPv6's is on; one that cannot be read is
// not.
func isIPv6On(scope, name string) bool {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + scope + "/" + name)
	value := strings.TrimSpace(string(text))
	return err == nil && value != "" && value != "0"
}
