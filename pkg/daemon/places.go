package daemon

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// placeVIPs says of each VIP of virtual routers on which interface it goes: on
// the one that the file names; else on that of lvx's whose network holds it,
// before all the router's own; else on the router's own.
func placeVIPs(routers []vrrp.Instance, interfaces []string, networks vip.Networks) []vrrp.Instance {
	networks = withoutVIPs(networks, routers)
	placed := slices.Clone(routers)
	for n := range placed {
		i := &placed[n]
		i.Devices = maps.Clone(i.Devices)
		for _, p := range i.Addresses {
			if _, isNamed := i.Devices[p.Addr()]; isNamed {
				continue
			}
			if name := networks.Choose(append([]string{i.Interface}, interfaces...), p.Addr()); name != i.Interface {
				if i.Devices == nil {
					i.Devices = map[netip.Addr]string{}
				}
				i.Devices[p.Addr()] = name
			}
		}
	}
	return placed
}

// withoutVIPs leaves out the networks that interfaces are in by a VIP alone: it
// may have been put there by mistake, or by a predecessor.
func withoutVIPs(networks vip.Networks, routers []vrrp.Instance) vip.Networks {
	own := vip.Networks{}
	for name, list := range networks {
		own[name] = slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool {
			return slices.ContainsFunc(routers, func(i vrrp.Instance) bool { return vip.Has(i.Addresses, p.Addr()) })
		})
	}
	return own
}

// readPlaces is [placeVIPs] by the networks of this host.
func readPlaces(routers []vrrp.Instance, interfaces []string) ([]vrrp.Instance, error) {
	all := slices.Clone(interfaces)
	for _, i := range routers {
		all = append(all, i.Interface)
	}
	networks, err := vip.ReadNetworks(all)
	if err != nil {
		return nil, err
	}
	return placeVIPs(routers, interfaces, networks), nil
}
