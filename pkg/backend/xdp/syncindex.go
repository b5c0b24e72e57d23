package xdp

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// listenerIndex finds services by where they listen, for connection sync:
// millions of records ask for the same few thousand listeners.
type listenerIndex struct {
	ofApply uint64 // the Apply whose services it has
	ports   map[port]*service
	ranges  map[endpoint][]lb.Listener
	ofName  map[lb.Listener]*service
	byMark  map[familyMark]*service
}

// familyMark is a mark: of IPv4 and of IPv6 the same one may be two services'.
type familyMark struct {
	mark   uint32
	isIPv6 bool
}

type port struct {
	endpoint
	port uint16
}

// index is the index of the services in force.
func (b *Backend) index() *listenerIndex {
	if b.listeners != nil && b.listeners.ofApply == b.applies {
		return b.listeners
	}
	x := &listenerIndex{
		ofApply: b.applies, ports: map[port]*service{}, ranges: map[endpoint][]lb.Listener{},
		ofName: map[lb.Listener]*service{}, byMark: map[familyMark]*service{},
	}
	for _, s := range b.order {
		if mark, ok := markOf(s); ok {
			x.byMark[familyMark{mark, s.conf.IsIPv6()}] = s
		}
		for _, l := range s.conf.Listeners {
			at := endpoint{l.Addr, l.Proto}
			if l.First == l.Last && !l.EveryPort() {
				x.ports[port{at, l.First}] = s
				continue
			}
			x.ranges[at] = append(x.ranges[at], l)
			x.ofName[l] = s
		}
	}
	b.listeners = x
	return x
}

// find is the service that takes packets for an address and port: that of the
// port alone, else of the narrowest range. Port 0 asks for the one that takes
// every port.
func (x *listenerIndex) find(dst netip.AddrPort, proto lb.Protocol) *service {
	at := endpoint{dst.Addr(), proto}
	if s := x.ports[port{at, dst.Port()}]; s != nil {
		return s
	}
	var best *service
	width := 1 << 17
	for _, l := range x.ranges[at] {
		isWanted := l.Contains(dst.Port())
		if dst.Port() == 0 {
			isWanted = l.EveryPort()
		}
		if isWanted && l.Width() < width {
			best, width = x.ofName[l], l.Width()
		}
	}
	return best
}
