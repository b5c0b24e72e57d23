package xdp

import (
	"errors"
	"fmt"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// ErrUnsupported marks what XDP does not do.
var ErrUnsupported = errors.New("not possible with XDP (use `backend: ipvs` or `auto`)")

// Supports tells why a service cannot run here: nil if it can.
func Supports(s lb.Service) error { return supports(s, false) }

func supports(s lb.Service, ipv6 bool) error {
	if why := cannot(s, ipv6); why != "" {
		return fmt.Errorf("service %s: %s: %w", s.Name, why, ErrUnsupported)
	}
	return nil
}

// Cannot tells in a few words why a service cannot run here: "" if it can.
func Cannot(s lb.Service) string { return cannot(s, false) }

// cannot is [Cannot]; with ipv6 it takes services of IPv6.
func cannot(s lb.Service, ipv6 bool) string {
	if s.Condition != "" {
		return fmt.Sprintf("mark %d: %s", s.Mark, s.Condition)
	}
	if why := needsKernel[s.Scheduler]; why != "" {
		return why
	}
	isIPv6 := s.IsIPv6()
	for _, l := range s.Listeners {
		switch {
		case l.Proto == lb.SCTP:
			return "SCTP listener " + l.String()
		case l.Addr.Is6() && !ipv6:
			return "IPv6 listener " + l.String()
		case l.Addr.Is6() != isIPv6:
			return "listeners of both families"
		}
	}
	if s.Sorry.IsValid() && (s.SorryForward == lb.NAT || s.SorryForward != lb.DR && isIPv6) {
		return "sorry_server by " + s.SorryForward.String()
	}
	for _, rs := range [][]lb.Real{s.Reals, s.Absent} {
		for _, r := range rs {
			switch {
			case r.Forward == lb.NAT:
				return "forward " + r.Forward.String()
			case r.Forward == lb.Tunnel && isIPv6:
				return "forward " + r.Forward.String() + " with IPv6"
			case r.Addr.Is6() && !ipv6:
				return "IPv6 real " + r.Addr.String()
			case r.Addr.Is6() != isIPv6:
				return "real " + r.Addr.String() + " of the other family"
			}
		}
	}
	return ""
}
