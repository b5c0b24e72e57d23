package director

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// followNames moves the roles and the leases of virtual routers that a reload renames to
// their new names. What it returns is shared with what it was given unless it differs.
func followNames(before, after []vrrp.Instance, active map[string]bool, leases map[string]uint32) (map[string]bool, map[string]uint32) {
	oldNames := vrrp.Renamed(before, after)
	return moveKeys(active, oldNames), moveKeys(leases, oldNames)
}

// keepHeld has the virtual routers that come with a VIP which this host has held itself be
// active until they say what they are: no lease of theirs has begun, so the data path is
// silent, where on standby the kernel would reset connections as long as the VIP is there.
func keepHeld(before, after []vrrp.Instance, vips []lb.VIP, active map[string]bool) map[string]bool {
	isHeld := func(p netip.Prefix) bool {
		return slices.ContainsFunc(vips, func(v lb.VIP) bool { return v.Addr == p.Addr() && v.Owner == "" })
	}
	active = maps.Clone(active)
	for _, i := range after {
		isNew := !slices.ContainsFunc(before, func(o vrrp.Instance) bool { return o.Name == i.Name || o.IsSameRouter(i) })
		if isNew && slices.ContainsFunc(i.Addresses, isHeld) {
			active[i.Name] = true
		}
	}
	return active
}

// moveKeys gives the values of the old keys to the new ones, which have no other.
func moveKeys[V any](values map[string]V, oldKeys map[string]string) map[string]V {
	if len(oldKeys) == 0 {
		return values
	}
	moved := maps.Clone(values)
	for to, from := range oldKeys {
		delete(moved, to)
		delete(moved, from)
	}
	for to, from := range oldKeys {
		if v, ok := values[from]; ok {
			moved[to] = v
		}
	}
	return moved
}
