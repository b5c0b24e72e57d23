package xdp

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// resolver finds what entries of peers name. It is good for as long as the backend's
// lock is held: what it has looked up it does not look up again for the next of
// thousands of entries.
type resolver struct {
	b        *Backend
	services [1 << 5]resolvedService
	reals    [1 << 8]resolvedReal
}

// resolvedService is what a record's virtual address, protocol and mark stand for.
type resolvedService struct {
	virtual    netip.AddrPort
	mark       uint32
	proto      lb.Protocol
	isKnown    bool
	service    *service // nil: nobody's
	number     uint16   // of the VIP
	isNumbered bool
}

// resolvedReal is what a real's address stands for in a service.
type resolvedReal struct {
	of *service
	at netip.AddrPort
	r  *real // nil: nobody
}

// service is the service of a record, and the number of its VIP.
func (x *resolver) service(r *connsync.Record, proto lb.Protocol) *resolvedService {
	at := &x.services[(r.Virtual.Port()^uint16(r.Mark))%uint16(len(x.services))]
	if at.isKnown && at.virtual == r.Virtual && at.mark == r.Mark && at.proto == proto {
		return at
	}
	*at = resolvedService{virtual: r.Virtual, mark: r.Mark, proto: proto, isKnown: true, service: x.b.serviceOf(r, proto)}
	at.number, at.isNumbered = x.b.numbers.of[endpoint{r.Virtual.Addr(), proto}]
	return at
}

// real is a real of a service by its address.
func (x *resolver) real(of *service, at netip.AddrPort) *real {
	address := at.Addr().As16()
	known := &x.reals[address[15]^uint8(at.Port())]
	if known.of != of || known.at != at {
		*known = resolvedReal{of, at, of.realAt(at)}
	}
	return known.r
}
