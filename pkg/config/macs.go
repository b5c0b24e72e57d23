package config

import (
	"maps"
	"net"
	"net/netip"
	"slices"
)

// bindMAC keeps the MAC that the file gives to a real.
func (s *service) bindMAC(r real) {
	if r.mac == ([6]byte{}) {
		return
	}
	if s.macs == nil {
		s.macs = map[netip.Addr]boundMAC{}
	}
	s.macs[r.Addr] = boundMAC{r.mac, r.object.at("mac")}
}

// joinMACs collects the MACs that services give to their reals. A real has one
// MAC, whichever service sends to it.
func joinMACs(services []service) map[netip.Addr][6]byte {
	var all map[netip.Addr][6]byte
	for i := range services {
		for _, addr := range slices.SortedFunc(maps.Keys(services[i].macs), netip.Addr.Compare) {
			b := services[i].macs[addr]
			if other, ok := all[addr]; ok && other != b.mac {
				b.at.errorf("%s for %s, which has %s in another service (want one MAC per real server)",
					net.HardwareAddr(b.mac[:]), addr, net.HardwareAddr(other[:]))
			}
			if all == nil {
				all = map[netip.Addr][6]byte{}
			}
			all[addr] = b.mac
		}
	}
	return all
}
