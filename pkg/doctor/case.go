package doctor

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/neigh"
)

// SettleTime is how long a director that has handed over may still answer for a VIP:
// until it has heard the new master, on a machine that is busy.
const SettleTime = 5 * time.Second

// NewCase is a configuration, with what its daemon knows now. A VIP that this host has
// taken over just now is not yet its own.
func NewCase(cfg *config.Config, st director.Status, now time.Time) Case {
	unsettled := map[string]bool{}
	for _, v := range st.VRRP {
		age := now.Sub(v.Since) // below 0 where the clock was set back
		unsettled[v.Instance] = age >= 0 && age < SettleTime
	}
	held := map[netip.Addr]bool{}
	isSettled := true
	for _, v := range st.VIPs {
		held[v.Addr] = v.Held && !unsettled[v.Instance]
		isSettled = isSettled && !unsettled[v.Instance]
	}
	c := Case{Config: cfg, IsSettled: isSettled, Has: func(a netip.Addr) bool { return held[a] }, MACs: map[neigh.MAC]netip.Addr{}, OnIPVS: map[string]bool{}, Directors: directors(cfg, st)}
	for _, svc := range st.Services {
		c.OnIPVS[svc.Name] = svc.Backend == "ipvs"
		for _, r := range svc.Reals {
			var mac neigh.MAC
			if b, err := net.ParseMAC(r.MAC); err != nil || copy(mac[:], b) != len(mac) {
				continue
			}
			if !slices.Contains(c.Directors, c.MACs[mac]) { // of both families it is known by the one that is a peer's
				c.MACs[mac] = r.Addr
			}
		}
	}
	return c
}

// directors are the addresses of this host's fellow directors, as the file and their
// adverts have them.
func directors(cfg *config.Config, st director.Status) (all []netip.Addr) {
	all = slices.Clone(cfg.Peers)
	for _, i := range cfg.VRRP {
		all = append(all, i.UnicastPeers...)
	}
	for _, v := range st.VRRP {
		for _, p := range v.Peers {
			all = append(all, p.Addr)
		}
	}
	return all
}
