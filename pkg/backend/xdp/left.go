package xdp

import (
	"maps"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// addDrained keeps the VIPs known of a service that has lost its listeners: its
// flows live on there, and nothing new is scheduled.
func (l *layout) addDrained(s *service) {
	for _, e := range s.listened {
		n, ok := l.numbers.of[e]
		switch {
		case !ok: // no flow of this VIP is left
		case e.proto == lb.UDP:
			l.at(e.vip).udp = n
		default:
			l.at(e.vip).tcp = n
		}
	}
}

// keepNumbers writes the numbers of endpoints that no service listens on any more
// where a successor finds them ([Backend.adoptVIPs]) and no packet does: half a
// table behind the lines that a search for the VIP touches. Their connections
// may live, and their services may return. It comes after every VIP that packets
// are to find; where there is no space left, it does without.
func (l *layout) keepNumbers() {
	for _, n := range slices.Sorted(maps.Keys(l.numbers.who)) {
		e := l.numbers.who[n]
		if p := l.vips[e.vip]; p != nil && (p.tcp == n || p.udp == n) {
			continue
		}
		v := bpf.VIP{Addr: bpf.AddressOf(e.vip)}
		if e.proto == lb.UDP {
			v.UDP = n
		} else {
			v.TCP = n
		}
		l.writeVIP(v, bpf.FirstVIPLine(e.vip)+bpf.VIPLines/2)
	}
}
