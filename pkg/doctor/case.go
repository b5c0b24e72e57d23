package doctor

import (
	"net"
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/neigh"
)

// NewCase is a configuration, with what its daemon knows.
func NewCase(cfg *config.Config, st director.Status) Case {
	held := map[netip.Addr]bool{}
	for _, v := range st.VIPs {
		held[v.Addr] = v.Held
	}
	c := Case{Config: cfg, Has: func(a netip.Addr) bool { return held[a] }, MACs: map[neigh.MAC]netip.Addr{}, OnIPVS: map[string]bool{}}
	for _, svc := range st.Services {
		c.OnIPVS[svc.Name] = svc.Backend == "ipvs"
		for _, r := range svc.Reals {
			var mac neigh.MAC
			if b, err := net.ParseMAC(r.MAC); err == nil && copy(mac[:], b) == len(mac) {
				c.MACs[mac] = r.Addr
			}
		}
	}
	return c
}
