package bgp

import (
	"net/netip"
	"strings"
)

// Change is something that people are told of: a session, or an address.
type Change struct {
	Subject string // "router 192.0.2.254", "program /usr/local/sbin/announce", "VIP 198.51.100.100"
	Text    string
}

// Changes lists what has changed between two looks: sessions first, in the
// order of the configuration.
func Changes(before, after Status) []Change {
	wasUp := map[netip.Addr]bool{}
	for _, p := range before.Peers {
		wasUp[p.Peer] = p.IsUp
	}
	var changes []Change
	for _, p := range after.Peers {
		if wasUp[p.Peer] == p.IsUp {
			continue
		}
		text := strings.TrimSuffix("session up, "+p.Reason, ", ")
		if !p.IsUp {
			text = "session down: " + p.Reason
		}
		changes = append(changes, Change{"router " + p.Peer.String(), text})
	}
	failed := map[string]bool{}
	for _, h := range before.Hook {
		failed[h.Name] = h.Reason != ""
	}
	for _, h := range after.Hook {
		switch {
		case h.Reason != "" && !failed[h.Name]:
			changes = append(changes, Change{h.Name, "not told what to announce: " + h.Reason})
		case h.Reason == "" && failed[h.Name]:
			changes = append(changes, Change{h.Name, "told what to announce"})
		}
	}
	was := map[netip.Addr]Decision{}
	for _, d := range before.VIPs {
		was[d.Addr] = d
	}
	for _, d := range after.VIPs {
		if text := was[d.Addr].becomes(d); text != "" {
			changes = append(changes, Change{"VIP " + d.Addr.String(), text})
		}
		delete(was, d.Addr)
	}
	for _, d := range before.VIPs {
		if _, isGone := was[d.Addr]; isGone && d.IsAnnounced {
			changes = append(changes, Change{"VIP " + d.Addr.String(), "withdrawn: no longer configured"})
		}
	}
	return changes
}

// becomes says in words how next differs; "" if it does not for people.
func (d Decision) becomes(next Decision) string {
	switch {
	case next.IsAnnounced && next.IsDraining && !(d.IsAnnounced && d.IsDraining):
		return "announced as a path to avoid"
	case next.IsAnnounced && !next.IsDraining && (!d.IsAnnounced || d.IsDraining):
		return "announced"
	case d.IsAnnounced && !next.IsAnnounced:
		return strings.TrimSuffix("withdrawn: "+next.Reason, ": ")
	}
	return ""
}
