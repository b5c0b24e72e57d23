package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// heard is a listener with its place in the file.
type heard struct {
	lb.Listener
	service string
	at      *cursor
	order   int
}

// listeners finds listeners that would fight for packets. A narrower listener
// wins over a wider one, so only those of equal width can clash; sorted by
// width and first port, some that overlap are neighbours.
func (d *decoder) listeners(services []service) {
	var all []heard
	for _, s := range services {
		for i, l := range s.Listeners {
			all = append(all, heard{l, s.Name, s.listens[i], len(all)})
		}
	}
	slices.SortFunc(all, func(a, b heard) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Width(), b.Width()),
			cmp.Compare(a.First, b.First), cmp.Compare(a.order, b.order))
	})
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		if a.Addr != b.Addr || a.Proto != b.Proto || a.Width() != b.Width() || b.First > a.Last {
			continue
		}
		if a.order > b.order {
			a, b = b, a
		}
		b.at.errorf("%s %s", b.Listener, clash(a, b))
	}
}

// clash words why b cannot be beside a.
func clash(a, b heard) string {
	where := "of service " + a.service
	if a.service == b.service {
		where = "of the same service"
	}
	if a.Listener == b.Listener {
		return "is a listener " + where + " already, on line " + strconv.Itoa(a.at.line) + " (want every address, protocol and port once)"
	}
	return "overlaps " + a.String() + " " + where + ", on line " + strconv.Itoa(a.at.line) + " (want ranges of different width, of which the narrower wins, or no overlap)"
}

// realsThatAreVIPs finds real servers whose address is a VIP: this host has
// it, and no packet would get to them.
func (d *decoder) realsThatAreVIPs(services []service, routers []router) {
	vips := map[netip.Addr]string{} // and what names them
	for _, r := range routers {
		for _, p := range r.Addresses {
			vips[p.Addr()] = "of virtual router " + r.Name
		}
	}
	for _, s := range services {
		for _, l := range s.Listeners {
			vips[l.Addr] = "of service " + s.Name
		}
	}
	for _, s := range services {
		for _, r := range s.realsAt {
			if owner, ok := vips[r.value]; ok {
				r.at.errorf("%s is a VIP, %s (want the real server's own address)", r.value, owner)
			}
		}
	}
}

// realAt is the address of a real server with its place in the file.
type realAt struct {
	value netip.Addr
	at    *cursor
}
