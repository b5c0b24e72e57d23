package director

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// listVIPs lists the virtual addresses of a configuration, each once: those
// that services listen on, in the order of the file, then those that only
// VRRP instances name. leases are the instances' numbers.
func listVIPs(cfg *config.Config, leases map[string]uint32) []lb.VIP {
	var vips []lb.VIP
	seen := map[netip.Addr]int{}
	add := func(addr netip.Addr) *lb.VIP {
		i, ok := seen[addr]
		if !ok {
			i = len(vips)
			seen[addr] = i
			vips = append(vips, lb.VIP{Addr: addr})
		}
		return &vips[i]
	}
	for i := range cfg.Services { // by reference: there may be ten thousand
		for _, l := range cfg.Services[i].Listeners {
			add(l.Addr)
		}
	}
	for _, inst := range cfg.VRRP {
		for _, p := range inst.Addresses {
			v := add(p.Addr())
			v.Owner, v.Leased, v.Lease = inst.Name, true, leases[inst.Name]
		}
	}
	return vips
}

// withRoles is vips with those on standby whose instance is not active. The
// result shares vips if no role differs.
func withRoles(vips []lb.VIP, active map[string]bool) []lb.VIP {
	isStandby := func(v lb.VIP) bool { return v.Owner != "" && !active[v.Owner] }
	if !slices.ContainsFunc(vips, func(v lb.VIP) bool { return v.Standby != isStandby(v) }) {
		return vips
	}
	vips = slices.Clone(vips)
	for i := range vips {
		vips[i].Standby = isStandby(vips[i])
	}
	return vips
}

// addrsOf lists the addresses of vips.
func addrsOf(vips []lb.VIP) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(vips))
	for _, v := range vips {
		addrs = append(addrs, v.Addr)
	}
	return addrs
}

// ownedHere lists the VIPs that no VRRP instance owns: the director itself
// holds them.
func ownedHere(vips []lb.VIP) []netip.Addr {
	var addrs []netip.Addr
	for _, v := range vips {
		if v.Owner == "" {
			addrs = append(addrs, v.Addr)
		}
	}
	return addrs
}

// heldHere says which of the VIPs that no VRRP instance owns are to be taken
// whoever has them: those of a service with `claim: force`.
func heldHere(cfg *config.Config, vips []lb.VIP) []HeldVIP {
	forced := map[netip.Addr]bool{}
	for i := range cfg.Services {
		if !cfg.Services[i].ForceClaim {
			continue
		}
		for _, l := range cfg.Services[i].Listeners {
			forced[l.Addr] = true
		}
	}
	var held []HeldVIP
	for _, a := range ownedHere(vips) {
		held = append(held, HeldVIP{a, forced[a], cfg.BGP.Announces(a)})
	}
	return held
}
