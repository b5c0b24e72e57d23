package director

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// findReal resolves what an operator typed. A stale override can be cleared,
// but not made.
func (d *Director) findReal(service, real string, clearing bool) (netip.AddrPort, error) {
	want, err := parseReal(real)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port uint16 // of the service, for reals that have none of their own
	served := func(k netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(k.Addr(), cmp.Or(k.Port(), port))
	}
	matches := func(k netip.AddrPort) bool {
		return k.Addr() == want.Addr() && (want.Port() == 0 || served(k).Port() == want.Port())
	}
	var found, all []netip.AddrPort
	known := false
	for _, svc := range d.cfg.Services {
		if svc.Name != service {
			continue
		}
		known, port = true, keyOf(&svc).Port
		for _, r := range svc.Reals {
			all = append(all, r.Key())
		}
	}
	if clearing {
		for _, o := range d.overrides {
			if o.Service == service && !slices.Contains(all, o.Real) {
				all, known = append(all, o.Real), true
			}
		}
	}
	if !known {
		return netip.AddrPort{}, fmt.Errorf("service %q: %w (%s)", service, ErrNotFound, d.serviceNames())
	}
	for _, k := range all {
		if k == want && k.Port() != 0 {
			return k, nil
		}
		if matches(k) {
			found = append(found, k)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		for i := range found {
			found[i] = served(found[i])
		}
		return netip.AddrPort{}, fmt.Errorf("real %s of %s: %d of them (give ADDR:PORT: %s)", want.Addr(), service, len(found), listAddrs(found))
	}
	return netip.AddrPort{}, fmt.Errorf("real %s of %s: %w (%s)", RealName(want), service, ErrNotFound, listAddrs(all))
}

func (d *Director) serviceNames() string {
	names := make([]string, 0, len(d.cfg.Services))
	for _, s := range d.cfg.Services {
		names = append(names, s.Name)
	}
	return listSome(names)
}

func listAddrs(as []netip.AddrPort) string {
	words := make([]string, 0, len(as))
	for _, a := range as {
		words = append(words, RealName(a))
	}
	return listSome(words)
}

// listSome keeps a hint on one line.
func listSome(words []string) string {
	switch n := len(words); {
	case n == 0:
		return "there are none"
	case n > 10:
		return "there are " + strings.Join(words[:10], ", ") + fmt.Sprintf(" and %d more", n-10)
	}
	return "there are " + strings.Join(words, ", ")
}

// parseReal reads "ADDR", "ADDR:PORT" or "[ADDR]:PORT".
func parseReal(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	return netip.AddrPort{}, fmt.Errorf("real %q: not an address (expected ADDR or ADDR:PORT)", s)
}
