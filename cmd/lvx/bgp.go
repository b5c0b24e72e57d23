package main

import (
	"fmt"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/guard"
)

// bgp shows the routers, or who tells them, and what they are told.
func (s *screen) bgp(st *bgp.Status) {
	if st == nil {
		return
	}
	s.b.WriteByte('\n')
	s.table(func(row func(class string, cells ...string)) {
		for _, p := range st.Peers {
			class, since := "down", ""
			if p.IsUp {
				class, since = "up", s.ago(p.Since)
			}
			detail := guard.Text(p.Reason)
			if p.BFD != "" {
				detail += " BFD " + p.BFD
			}
			row(class, "bgp "+p.Peer.String(), p.State, since, fmt.Sprintf("AS %d", p.ASN), detail)
		}
		for _, h := range st.Hook {
			class, state, since := "down", "not told", ""
			if h.IsCurrent && !h.Since.IsZero() {
				class, state, since = "up", "told", s.ago(h.Since)
			}
			row(class, "bgp "+h.Name, state, since, "", guard.Text(h.Reason))
		}
		for _, v := range st.VIPs {
			class, state := "down", "not announced"
			if v.IsAnnounced {
				class, state = "up", "announced"
			}
			if v.IsAnnounced && v.IsDraining {
				class, state = "drained", "draining"
			}
			row(class, "bgp VIP "+v.Addr.String(), state, "", "", guard.Text(v.Reason))
		}
	})
}
