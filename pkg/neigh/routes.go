package neigh

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// Route is a part of the host's routes.
type Route struct {
	To      netip.Prefix
	Gateway netip.Addr // zero: only the kernel knows the next hop
	MTU     int        // that the route says; 0: it says none
}

// Routes are the host's routes of IPv4 to others than the reals, the longest
// prefixes first; none if rules decide between tables. From the first call on
// their gateways are looked for as the reals are, so that [Resolver.Lookup] has
// their MACs; before it nobody asks for them.
func (r *Resolver) Routes() []Route {
	if !r.followsRoutes.Swap(true) {
		wakeUp(r.wake)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.table
}

// readTable reads the routes that [Resolver.Routes] gives, and returns the
// gateways that are no targets yet and are now.
func (l *loop) readTable() (added []netip.Addr, err error) {
	if !l.followsRoutes.Load() {
		return nil, nil
	}
	table, err := l.net.table()
	if err != nil {
		return nil, err
	}
	l.gateways = map[netip.Addr]bool{}
	for _, r := range table {
		if !r.Gateway.IsValid() {
			continue
		}
		l.gateways[r.Gateway] = true
		if l.targets[r.Gateway] == nil {
			l.targets[r.Gateway] = &target{addr: r.Gateway, isRouter: true}
			added = append(added, r.Gateway)
		}
	}
	l.mu.Lock()
	same := slices.Equal(l.table, table)
	l.table = table
	l.mu.Unlock()
	if !same {
		l.version.Add(1)
		wakeUp(l.changed)
	}
	return added, nil
}

// table is the host's main table of IPv4, the longest prefixes first.
func (h *liveNetwork) table() ([]Route, error) {
	rules, err := kernellist.Complete(func() ([]netlink.Rule, error) { return h.handle.RuleList(netlink.FAMILY_V4) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("routing rules: %w", err)
	}
	for _, r := range rules {
		if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_DEFAULT {
			return nil, nil
		}
	}
	routes, err := kernellist.Complete(func() ([]netlink.Route, error) {
		return h.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("routes: %w", err)
	}
	return sortRoutes(routes), nil
}

// sortRoutes puts the route first that the kernel takes first, and leaves out
// those that it never takes.
func sortRoutes(routes []netlink.Route) []Route {
	prefix := func(r netlink.Route) netip.Prefix {
		if r.Dst == nil {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		return netip.PrefixFrom(a.Unmap(), bits)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int {
		return cmp.Or(cmp.Compare(prefix(b).Bits(), prefix(a).Bits()), prefix(a).Addr().Compare(prefix(b).Addr()), cmp.Compare(a.Priority, b.Priority))
	})
	var table []Route
	for _, r := range routes {
		to := prefix(r)
		if n := len(table); n > 0 && table[n-1].To == to {
			continue
		}
		route := Route{To: to, MTU: r.MTU}
		if r.Tos != 0 { // not every packet's
			route.MTU = 0
		}
		isPlain := r.Type == unix.RTN_UNICAST && len(r.MultiPath) == 0 && r.Via == nil && r.Encap == nil && r.Tos == 0
		if gateway, ok := netip.AddrFromSlice(r.Gw); ok && isPlain {
			route.Gateway = gateway.Unmap()
		}
		table = append(table, route)
	}
	return table
}
