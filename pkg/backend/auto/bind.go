package auto

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Bound implements [lb.Binder]. A client that is bound on both data paths is
// listed, and counted, once.
func (b *Backend) Bound(service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int, err error) {
	err = b.eachBinder(service, func(at lb.Binder) error {
		more, count, err := at.Bound(service, real, limit)
		n += count
		for _, c := range more {
			if slices.Contains(clients, c) {
				n--
			} else {
				clients = append(clients, c)
			}
		}
		return err
	})
	return clients[:min(limit, len(clients))], n, err
}

// Unbind implements [lb.Binder]. One data path may end templates where the other
// cannot.
func (b *Backend) Unbind(service string, real netip.AddrPort) (ended int, err error) {
	err = b.eachBinder(service, func(at lb.Binder) error {
		n, err := at.Unbind(service, real)
		ended += n
		return err
	})
	return ended, err
}

// eachBinder visits the data paths that have a service: one, or both where it is
// on its way from one to the other.
func (b *Backend) eachBinder(service string, visit func(lb.Binder) error) error {
	var errs []error
	for _, part := range []struct {
		at       lb.Backend
		services []lb.Service
	}{{b.xdp, b.onXDP}, {b.ipvs, b.onIPVS}} {
		if !slices.ContainsFunc(part.services, func(s lb.Service) bool { return s.Name == service }) {
			continue
		}
		if binder, ok := part.at.(lb.Binder); ok {
			errs = append(errs, visit(binder))
		}
	}
	return errors.Join(errs...)
}
