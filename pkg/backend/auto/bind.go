package auto

import (
	"errors"
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Bound implements [lb.Binder]: clients may be bound where a service runs, and
// where it ran before.
func (b *Backend) Bound(service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int, err error) {
	err = b.eachBinder(service, func(at lb.Binder) error {
		more, count, err := at.Bound(service, real, max(limit-len(clients), 0))
		clients, n = append(clients, more...), n+count
		return err
	})
	return clients, n, err
}

// Unbind implements [lb.Binder].
func (b *Backend) Unbind(service string, real netip.AddrPort) (ended int, err error) {
	err = b.eachBinder(service, func(at lb.Binder) error {
		n, err := at.Unbind(service, real)
		ended += n
		return err
	})
	return ended, err
}

// eachBinder visits the data paths that have a service now.
func (b *Backend) eachBinder(service string, visit func(lb.Binder) error) error {
	var errs []error
	for _, part := range []struct {
		at       lb.Backend
		services []lb.Service
	}{{b.xdp, b.onXDP}, {b.ipvs, b.onIPVS}} {
		if _, has := named(part.services, func(s lb.Service) string { return s.Name })[service]; !has {
			continue
		}
		if binder, ok := part.at.(lb.Binder); ok {
			errs = append(errs, visit(binder))
		}
	}
	return errors.Join(errs...)
}
