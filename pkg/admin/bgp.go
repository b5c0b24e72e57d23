package admin

import "github.com/lvx-lb/lvx/pkg/director"

// The metrics of announcing by BGP.
var (
	bgpSessionUp = gauge("bgp_session_up", "1 while the session with a router stands.", "router")
	bgpAnnounced = gauge("bgp_vip_announced", "1 while routers are told to send the VIP's packets here.", "vip")
	bgpDraining  = gauge("bgp_vip_draining", "1 while routers are told to prefer other directors for the VIP.", "vip")
)

func (m scrape) bgp(st director.Status) {
	if st.BGP == nil {
		return
	}
	for _, p := range st.BGP.Peers {
		m.set(bgpSessionUp, flag(p.IsUp), p.Peer.String())
	}
	for _, v := range st.BGP.VIPs {
		m.set(bgpAnnounced, flag(v.IsAnnounced), v.Addr.String())
		m.set(bgpDraining, flag(v.IsAnnounced && v.IsDraining), v.Addr.String())
	}
}
