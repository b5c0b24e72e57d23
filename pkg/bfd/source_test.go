package bfd

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// A session whose source the kernel chooses comes from where the kernel would have it by now, as
// long as it is not up: it may have begun before its interface had an address, or that address has
// changed since.
func TestSourceFollowsTheHostsAddresses(t *testing.T) {
	for name, test := range map[string]struct{ neighbour, elsewhere, before, after string }{
		"its interface had no address": {"10.99.0.2", "10.98.0.1/24", "", "10.99.0.1/24"},
		"another address":              {"10.99.0.2", "10.98.0.1/24", "10.99.0.1/24", "10.99.0.9/24"},
		"another address of IPv6":      {"fd99::2", "fd98::1/64", "fd99::1/64", "fd99::9/64"},
	} {
		t.Run(name, func(t *testing.T) {
			tb.InNamespace(t, func(t *testing.T, index int) {
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Error(err)
					}
				}
				at := func(text string) *netlink.Addr {
					a, err := netlink.ParseAddr(text)
					must(err)
					a.Flags |= unix.IFA_F_NODAD
					return a
				}
				eth0, err := netlink.LinkByIndex(index)
				must(err)
				other, err := netlink.LinkByName("eth0peer")
				must(err)
				must(netlink.AddrAdd(other, at(test.elsewhere)))
				neighbour := netip.MustParseAddr(test.neighbour)
				every := net.IPNet{IP: make(net.IP, neighbour.BitLen()/8), Mask: net.CIDRMask(0, neighbour.BitLen())}
				must(netlink.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Dst: &every}))
				if test.before != "" {
					must(netlink.AddrAdd(eth0, at(test.before)))
				}
				m := &member{sender: &sender{to: netip.AddrPortFrom(neighbour, portSingleHop), ttl: 255}}
				m.session = newSession(Session{}, 1, m.sendToNeighbour, ignore)
				defer m.sender.close()
				sendAs := func(state State) netip.Addr {
					t.Helper()
					m.status.State = state
					must(m.sendToNeighbour([]byte{0}))
					return m.sender.conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
				}
				first := sendAs(Down)
				if test.before != "" {
					must(netlink.AddrDel(eth0, at(test.before)))
				}
				must(netlink.AddrAdd(eth0, at(test.after)))
				if test.before == "" && sendAs(Up) != first {
					t.Errorf("a session that is up does not come from %s any more", first)
				}
				if got, want := sendAs(Init), netip.MustParsePrefix(test.after).Addr(); got != want {
					t.Errorf("comes from %s, want %s", got, want)
				}
			})
		})
	}
}
