package director

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/config"
)

// Routes announces VIPs to routers. Its methods do not wait.
type Routes interface {
	// Serving hears after every Apply which of the VIPs that BGP announces
	// serve, and why not.
	Serving(vips []bgp.VIP)

	// Drain has routers prefer other directors and then withdraws every VIP,
	// or announces them again.
	Drain(isDrained bool)

	// Status reports on routers and VIPs.
	Status() bgp.Status
}

// servingVIPs says of every VIP that BGP announces whether enough of its
// services take connections. A sorry server counts: clients are better served
// by it than by nobody.
func servingVIPs(cfg *config.Config, out Planned) []bgp.VIP {
	owned := map[netip.Addr]bool{} // by virtual routers
	for _, v := range out.State.VIPs {
		owned[v.Addr] = v.Owner != ""
	}
	var vips []bgp.VIP
	at := map[netip.Addr]int{}
	for i, p := range out.Services {
		for _, addr := range listenAddrs(&cfg.Services[i]) {
			if owned[addr] || !cfg.BGP.Announces(addr) {
				continue
			}
			n, ok := at[addr]
			if !ok {
				n = len(vips)
				at[addr] = n
				vips = append(vips, bgp.VIP{Addr: addr, IsServing: cfg.BGP.AnnounceAll, Why: "no service of it serves"})
			}
			switch serves := p.Quorum || p.Sorry; {
			case cfg.BGP.AnnounceAll && !serves && vips[n].IsServing:
				vips[n].IsServing, vips[n].Why = false, "service "+p.Name+" does not serve: "+p.Reason
			case !cfg.BGP.AnnounceAll && serves:
				vips[n].IsServing = true
			}
		}
	}
	return vips
}

// listenAddrs are the addresses of a service's listeners, each once.
func listenAddrs(svc *config.Service) []netip.Addr {
	var addrs []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, l := range svc.Listeners {
		if !seen[l.Addr] {
			seen[l.Addr] = true
			addrs = append(addrs, l.Addr)
		}
	}
	return addrs
}

// routesStatus is nil without BGP.
func (d *Director) routesStatus() *bgp.Status {
	if d.opt.Routes == nil {
		return nil
	}
	st := d.opt.Routes.Status()
	return &st
}
