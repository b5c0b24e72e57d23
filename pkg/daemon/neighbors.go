package daemon

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/neigh"
)

// neighbors is what the XDP data path and the director ask of a resolver.
type neighbors struct{ *neigh.Resolver }

// Lookup implements [xdp.Neighbors].
func (n *neighbors) Lookup(a netip.Addr) xdp.Neighbor {
	e := n.Resolver.Lookup(a)
	return xdp.Neighbor{
		MAC: e.MAC, Source: e.SrcMAC, IfIndex: e.IfIndex, Device: e.Device, MTU: e.MTU, From: e.SrcAddr, Gateway: e.Gateway, Local: e.Local, Err: e.Err,
		Pending: e.Pending, OwnLink: e.OwnLink,
	}
}

// wayTo is by which interface an address is reached, also one that nobody has
// looked for yet.
func (n *neighbors) wayTo(a netip.Addr) (device string, isLocal bool) {
	if e := n.Resolver.Lookup(a); e.Device != "" || e.Local {
		return e.Device, e.Local
	}
	return hostinfo.WayTo(a)
}

// Routes implements [xdp.Neighbors].
func (n *neighbors) Routes() []xdp.Route {
	table := n.Resolver.Routes()
	routes := make([]xdp.Route, len(table))
	for i, r := range table {
		routes[i] = xdp.Route{To: r.To, Gateway: r.Gateway, MTU: r.MTU}
	}
	return routes
}

// Bind implements [director.Neigh].
func (n *neighbors) Bind(macs map[netip.Addr][6]byte) {
	bound := make(map[netip.Addr]neigh.MAC, len(macs))
	for a, mac := range macs {
		bound[a] = mac
	}
	n.Resolver.Bind(bound)
}

// Local implements [director.Neigh].
func (n *neighbors) Local(a netip.Addr) (is, known bool) {
	e := n.Resolver.Lookup(a)
	return e.Local, !e.Pending || e.IfIndex != 0
}

// Resolved implements [director.Neigh].
func (n *neighbors) Resolved(servers []netip.Addr) bool {
	return !slices.ContainsFunc(servers, func(a netip.Addr) bool { return !n.Resolver.Lookup(a).Usable() })
}
