package doctor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/netfilter"
)

// Live is this host. Its methods speak of the network namespace of the thread
// that calls them.
type Live struct{ rules netfilter.Reader }

// Owners implements [Host].
func (*Live) Owners(ctx context.Context, iface string, addr netip.Addr) ([]neigh.MAC, error) {
	return neigh.FindOwners(ctx, iface, addr)
}

// Route implements [Host].
func (*Live) Route(addr netip.Addr) (Route, error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil {
		return Route{}, err
	}
	if len(routes) == 0 {
		return Route{}, errors.New("no route")
	}
	r := routes[0]
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Route{}, err
	}
	way := Route{
		Device: link.Attrs().Name, IsGateway: r.Gw != nil || r.Via != nil, IsLocal: r.Type == unix.RTN_LOCAL, MTU: link.Attrs().MTU,
	}
	if r.MTU > 0 {
		way.MTU = r.MTU
	}
	return way, nil
}

// Interface implements [Host].
func (*Live) Interface(name string) (Interface, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return Interface{}, err
	}
	l, err := hostinfo.ExamineLink(name)
	if err != nil {
		return Interface{}, err
	}
	below, notBelow, isServed := examineBelow(name)
	return Interface{
		Below: below, NotBelow: notBelow, IsServed: isServed,
		MTU: link.Attrs().MTU, IsNative: l.IsNative, LacksPeer: l.LacksPeer, Bridge: l.Bridge, HasLRO: l.HasLRO, HasVLANStrip: l.HasStrip,
		IsGeneric: l.IsGeneric, HasGRO: l.HasGRO,
		IsDefault: isDefaultRouted(link.Attrs().Index),
	}, nil
}

// Sysctl implements [Host].
func (*Live) Sysctl(key string) (string, error) {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
	return strings.TrimSpace(string(text)), err
}

// Marks implements [Host].
func (l *Live) Marks(served []lb.Listener, interfaces []string) ([]string, error) {
	return l.rules.Marked(served, interfaces)
}

// Masquerading implements [Host].
func (l *Live) Masquerading(from, to netip.Addr, iface string) ([]string, error) {
	return l.rules.Masquerading(from, to, iface)
}

// isDefaultRouted reports whether the default route leaves by an interface; if
// there is none, nothing leaves elsewhere.
func isDefaultRouted(index int) bool {
	routes, err := kernellist.Complete(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return true
	}
	found := false
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if r.LinkIndex == index {
				return true
			}
			found = true
		}
	}
	return !found
}

// examineBelow looks at the interface below a VLAN's: why it cannot serve the VLAN's
// frames, and whether a program of its driver is there to do so, because none is on the
// VLAN's own.
func examineBelow(name string) (below, why string, isServed bool) {
	v, ok := hostinfo.VLANOf(name)
	if !ok {
		return "", "", false
	}
	if err := hostinfo.CannotServe(v); err != nil {
		why = err.Error()
	}
	own, err := netlink.LinkByName(name)
	l, err2 := hostinfo.ExamineLink(v.Device)
	hasOwn := err == nil && own.Attrs().Xdp != nil && own.Attrs().Xdp.Attached
	return v.Device, why, err2 == nil && l.IsNative && !hasOwn
}
