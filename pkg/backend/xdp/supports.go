package xdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// ErrUnsupported marks what XDP does not do.
var ErrUnsupported = errors.New("not possible with XDP (use `backend: ipvs` or `auto`)")

// Supports says why a service cannot run in XDP: nil if it can.
func Supports(s lb.Service) error { return supports(s, true) }

func supports(s lb.Service, ipv6 bool) error {
	if why := cannot(s, ipv6); why != "" {
		return fmt.Errorf("service %s: %s: %w", s.Name, why, ErrUnsupported)
	}
	return nil
}

// Cannot says in a few words why XDP cannot run a service: "" if it can.
func Cannot(s lb.Service) string { return cannot(s, true) }

// Cannot is [Cannot] for this packet path, which may be without IPv6.
func (b *Backend) Cannot(s lb.Service) string { return cannot(s, b.ipv6) }

// LackOf says what a service by NAT needs and XDP on these interfaces does not
// have: "" if it has everything. wayTo is by which interface a real's replies come,
// "" if that is not known. Other than with [Cannot], XDP takes the service, and
// keeps those reals out.
func LackOf(s lb.Service, interfaces []string, wayTo func(netip.Addr) (device string, isLocal bool)) string {
	for _, rs := range [][]lb.Real{s.Reals, s.Absent} {
		for _, r := range rs {
			if r.Forward != lb.NAT {
				continue
			}
			device, isLocal := wayTo(r.Addr)
			switch {
			case isLocal && r.Port != 0:
				return whyNotMapped(r.Addr)
			case !isLocal && device != "" && !slices.Contains(interfaces, device):
				return whyNotServed(r.Addr, device)
			}
		}
	}
	return ""
}

func whyNotMapped(a netip.Addr) string {
	return a.String() + " is this host, where XDP does not change the port (take the service's port, or backend: ipvs)"
}

func whyNotServed(a netip.Addr, device string) string {
	return "replies of " + a.String() + " come by " + device + ", which XDP does not serve (add it to interfaces:)"
}

// withoutIPv6 is why a service of IPv6 cannot run in a packet path that was
// opened when there was none.
const withoutIPv6 = ": the packet path was started without IPv6 services (restart lvx: connections live on)"

// cannot says why XDP cannot run a service; without ipv6 it refuses services of IPv6.
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
			return "IPv6 listener " + l.String() + withoutIPv6
		case l.Addr.Is6() != isIPv6:
			return "listeners of both families"
		}
	}
	if s.Sorry.IsValid() && (s.SorryForward == lb.NAT || s.SorryEncap.Checksum != lb.NoChecksum) {
		return "sorry_server by " + wayWords(lb.Real{Forward: s.SorryForward, Encap: s.SorryEncap})
	}
	for _, rs := range [][]lb.Real{s.Reals, s.Absent} {
		for _, r := range rs {
			why := ""
			if r.Forward == lb.NAT {
				why = whyNotByNAT(&s, r)
			}
			switch {
			case why != "":
				return why
			case r.Encap.Checksum != lb.NoChecksum:
				return "forward " + wayWords(r)
			case r.Forward == lb.NAT && isIPv6:
				return "forward nat with IPv6"
			case r.Addr.Is6() != isIPv6 && r.Forward != lb.Tunnel:
				return "real " + r.Addr.String() + " of the other family"
			}
		}
	}
	return ""
}

// wayWords names how packets get to r, with the checksum of a tunnel that has one:
// XDP would have to add up the whole packet.
func wayWords(r lb.Real) string {
	if r.Encap.Checksum != lb.NoChecksum {
		return r.Way() + " with " + r.Encap.Checksum.String()
	}
	return r.Way()
}

// ftpPort is where the kernel reads what FTP says of its data connections.
const ftpPort = 21

// whyNotByNAT says why XDP cannot translate what goes to r: "" if it can. A
// reply names its VIP's port by its own: a real's port that stands for many is
// not told apart.
func whyNotByNAT(s *lb.Service, r lb.Real) string {
	for _, l := range s.Listeners {
		switch {
		case l.Proto == lb.TCP && l.First == ftpPort && l.Last == ftpPort:
			return "FTP by NAT: its data connections need the kernel's helper"
		case r.Port != 0 && l.Width() > 1:
			return fmt.Sprintf("forward nat of all ports of %s to one port", l)
		}
	}
	return ""
}
