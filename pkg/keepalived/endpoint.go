package keepalived

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// endpoints finds where a virtual_server answers.
func (m *mapper) endpoints(s *Statement) []endpoint {
	switch s.arg(0) {
	case "group":
		g := m.groups[s.arg(1)]
		if g == nil {
			s.mark(Harmless, "keepalived ignores a virtual_server of the group %s, which is not there", quote(s.arg(1)))
			return nil
		}
		g.mark(Mapped, "")
		var all []endpoint
		for _, entry := range g.Block {
			all = append(all, groupEntry(entry)...)
			if len(all) > maxEndpoints {
				break
			}
		}
		return all
	case "fwmark":
		n, err := strconv.ParseUint(s.arg(1), 0, 32)
		if err != nil || n == 0 {
			s.mark(Harmless, "keepalived ignores the mark %s", quote(s.arg(1)))
			return nil
		}
		return []endpoint{{from: s, mark: uint32(n)}}
	}
	addr, ok := hostAddress(s.arg(0))
	port, okPort := parsePort(s.arg(1))
	if !ok || !okPort {
		s.mark(Harmless, "keepalived ignores the address %s", quote(strings.Join(s.Args, " ")))
		return nil
	}
	return []endpoint{{from: s, addr: addr, port: port}}
}

// groupEntry reads a line of a virtual_server_group: an address, a range of
// addresses, a network or a firewall mark.
func groupEntry(s *Statement) []endpoint {
	if s.Word == "fwmark" {
		n, err := strconv.ParseUint(s.arg(0), 0, 32)
		if err != nil || n == 0 {
			s.mark(Harmless, "keepalived ignores the mark %s", quote(s.arg(0)))
			return nil
		}
		s.mark(Mapped, "")
		return []endpoint{{from: s, mark: uint32(n)}}
	}
	port, ok := parsePort(s.arg(0))
	addrs := parseRange(s.Word)
	if !ok || len(addrs) == 0 {
		s.mark(Harmless, "keepalived ignores %s", quote(s.Word))
		return nil
	}
	if len(addrs) > manyEndpoints {
		s.mark(Changed, "%d services: --group makes one of them", len(addrs))
	}
	s.mark(Mapped, "")
	var all []endpoint
	for _, a := range addrs {
		all = append(all, endpoint{from: s, addr: a, port: port})
	}
	return all
}

// parseRange reads "192.0.2.1", "192.0.2.1-9", "2001:db8::1-f" and
// "192.0.2.0/28"; none where it is none of them or longer than
// maxEndpoints.
func parseRange(s string) []netip.Addr {
	if p, err := netip.ParsePrefix(s); err == nil {
		return enumerate(p.Masked())
	}
	low, high, isRange := strings.Cut(s, "-")
	addr, ok := parseAddress(low)
	if !ok {
		return nil
	}
	if !isRange {
		return []netip.Addr{addr}
	}
	last, ok := rangeEnd(addr, high)
	if !ok {
		return nil
	}
	var all []netip.Addr
	for a := addr; a.IsValid() && a.Compare(last) <= 0 && len(all) <= maxEndpoints; a = a.Next() {
		all = append(all, a)
	}
	return all
}

// rangeEnd is the last address of a range: another address, or the last part
// of one.
func rangeEnd(addr netip.Addr, end string) (netip.Addr, bool) {
	if a, ok := parseAddress(end); ok {
		return a, a.Is4() == addr.Is4()
	}
	b := addr.AsSlice()
	if addr.Is4() {
		n, err := strconv.ParseUint(end, 10, 8)
		b[3] = byte(n)
		return netip.AddrFrom4([4]byte(b)), err == nil
	}
	n, err := strconv.ParseUint(end, 16, 16)
	binary.BigEndian.PutUint16(b[14:], uint16(n))
	return netip.AddrFrom16([16]byte(b)), err == nil
}

// enumerate lists the hosts of a network.
func enumerate(p netip.Prefix) []netip.Addr {
	var all []netip.Addr
	for a := p.Addr(); a.IsValid() && p.Contains(a) && len(all) <= maxEndpoints; a = a.Next() {
		all = append(all, a)
	}
	return all
}
