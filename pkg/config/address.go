package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// address reads the unicast address of a host. The zero Addr is an error that
// has been recorded.
func address(c *cursor) netip.Addr {
	s := filled(c, "an IP address")
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		c.errorf("%s is not an IP address (want one such as 192.0.2.10 or 2001:db8::10, without port)", quoted(s))
		return netip.Addr{}
	}
	if what := unfit(a); what != "" {
		c.errorf("%s", what)
		return netip.Addr{}
	}
	return a
}

// unfit returns why no host can have the address a, or "".
func unfit(a netip.Addr) string {
	switch {
	case a.Zone() != "":
		return fmt.Sprintf("%s has a zone (want %s)", quoted(a.String()), a.WithZone(""))
	case a.Is4In6():
		return fmt.Sprintf("%s is an IPv4 address in IPv6's notation (want %s)", a, a.Unmap())
	case a.IsUnspecified():
		return fmt.Sprintf("%s is the unspecified address (want that of a host)", a)
	case a.IsMulticast():
		return fmt.Sprintf("%s is a multicast address (want that of a host)", a)
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Sprintf("%s is the broadcast address (want that of a host)", a)
	}
	return ""
}

// virtual returns why a cannot be a VIP, or "".
func virtual(a netip.Addr) string {
	if what := unfit(a); what != "" {
		return what
	}
	if a.IsLoopback() {
		return fmt.Sprintf("%s is a loopback address (want one that clients can reach)", a)
	}
	return ""
}

// network reads a prefix; an address alone is a prefix of its whole length.
func network(c *cursor) netip.Prefix {
	s := filled(c, "a network")
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		s = netip.PrefixFrom(a, a.BitLen()).String()
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case s == "": // recorded
	case err != nil:
		c.errorf("%s is not a network (want one such as 198.51.100.0/24 or 2001:db8::/32)", quoted(s))
	case p.Addr().Is4In6():
		c.errorf("%s is an IPv4 network in IPv6's notation (want %s)", quoted(s), p.Addr().Unmap())
	case p != p.Masked():
		c.errorf("%s has bits behind its prefix (want %s)", quoted(s), p.Masked())
	default:
		return p
	}
	return netip.Prefix{}
}

// listen reads one entry of a service's listen.
func listen(c *cursor) []lb.Listener {
	s := filled(c, "ADDR:PORT/tcp")
	if s == "" {
		return nil
	}
	ls, err := parseListen(s)
	if err != nil {
		c.errorf("%s", err)
		return nil
	}
	return ls
}

// parseListen understands "ADDR:PORT/PROTO", where PORT may be a range or *,
// and ADDR alone, which is every port of TCP and of UDP.
func parseListen(s string) ([]lb.Listener, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil && !strings.Contains(bare, "/") {
		if what := virtual(a); what != "" {
			return nil, fmt.Errorf("%s", what)
		}
		return []lb.Listener{{Addr: a, Proto: lb.TCP}, {Addr: a, Proto: lb.UDP}}, nil
	}
	where, protocol, ok := strings.Cut(s, "/")
	if !ok {
		return nil, fmt.Errorf("%s has no protocol (want ADDR:PORT/tcp or ADDR:PORT/udp; ADDR alone is every port of both)", quoted(s))
	}
	proto, isKnown := map[string]lb.Protocol{"tcp": lb.TCP, "udp": lb.UDP, "sctp": lb.SCTP}[protocol]
	if !isKnown {
		return nil, fmt.Errorf("%s is not a protocol (want tcp, udp or sctp)", quoted(protocol))
	}
	l := lb.Listener{Proto: proto}
	host, ports, err := splitPort(where)
	if err != nil {
		return nil, err
	}
	if l.Addr, err = netip.ParseAddr(host); err != nil {
		return nil, fmt.Errorf("%s is not an IP address (want ADDR:PORT/%s)", quoted(host), protocol)
	}
	if what := virtual(l.Addr); what != "" {
		return nil, fmt.Errorf("%s", what)
	}
	if l.First, l.Last, err = parsePorts(ports); err != nil {
		return nil, err
	}
	return []lb.Listener{l}, nil
}

// splitPort takes the port off an address. IPv6 needs brackets.
func splitPort(s string) (host, ports string, err error) {
	i := strings.LastIndex(s, ":")
	if i < 0 || strings.HasSuffix(s, "]") {
		return "", "", fmt.Errorf("%s has no port (want ADDR:PORT, ADDR:FIRST-LAST or ADDR:*)", quoted(s))
	}
	host, ports = s[:i], s[i+1:]
	inner, open := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	switch {
	case open != closed, open && !strings.Contains(inner, ":"):
		return "", "", fmt.Errorf("%s has brackets that are not around an IPv6 address (want [2001:db8::1]:PORT)", quoted(s))
	case !open && strings.Contains(host, ":"):
		return "", "", fmt.Errorf("%s is an IPv6 address without brackets (want [%s]:PORT)", quoted(s), printable(host))
	}
	return inner, ports, nil
}

// parsePorts understands "80", "8000-8100" and "*", which is 0, 0.
func parsePorts(s string) (first, last uint16, err error) {
	if s == "*" {
		return 0, 0, nil
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	first, errLow := parsePort(low)
	last, errHigh := parsePort(high)
	switch {
	case errLow != nil:
		return 0, 0, errLow
	case errHigh != nil:
		return 0, 0, errHigh
	case first > last:
		return 0, 0, fmt.Errorf("%s is a range from high to low (want %d-%d)", quoted(s), last, first)
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s is not a port (want 1 to 65535, FIRST-LAST, or * for every port)", quoted(s))
	case n == 0:
		return 0, fmt.Errorf("port 0 (want 1 to 65535, or * for every port)")
	}
	return uint16(n), nil
}

// netmask reads how much of a client's address counts, as a prefix length of
// 1 to bits; 0 is all of it.
func netmask(bits int) read[int] {
	return func(c *cursor) int {
		s, ok := raw(c, "a netmask or a prefix length")
		if !ok {
			return 0
		}
		n, err := parseNetmask(s, bits)
		if err != nil {
			c.errorf("%s", err)
			return 0
		}
		if n < bits/4 {
			c.warnf("netmask /%d binds more than %d bits of clients to one real server", n, bits-bits/4)
		}
		if n == bits {
			return 0
		}
		return n
	}
}

func parseNetmask(s string, bits int) (int, error) {
	want := fmt.Sprintf("want a prefix length of 1 to %d", bits)
	if bits == 32 {
		want = "want a netmask such as 255.255.255.0, or a prefix length of 1 to 32"
	}
	n, err := strconv.Atoi(strings.TrimPrefix(s, "/"))
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() || bits != 32 {
			return 0, fmt.Errorf("%s is not a netmask (%s)", quoted(s), want)
		}
		b := a.As4()
		ones, size := net.IPMask(b[:]).Size()
		if size == 0 {
			return 0, fmt.Errorf("%s is not a netmask: its ones are not all on the left (%s)", quoted(s), want)
		}
		n = ones
	}
	if n < 1 || n > bits {
		return 0, fmt.Errorf("%s is out of range (%s)", quoted(s), want)
	}
	return n, nil
}

// interfaceName reads the name of a network device (dev_valid_name).
func interfaceName(c *cursor) string {
	s := filled(c, "the name of one interface")
	if len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: ") {
		c.errorf("%s is not the name of an interface (want up to 15 characters without blanks, / and :)", quoted(s))
		return ""
	}
	return s
}

// server reads the host and port of a server; the port may be left out.
func server(port string) read[string] {
	return func(c *cursor) string {
		s := word(c)
		if s == "" {
			return ""
		}
		host, number, err := net.SplitHostPort(s)
		if err != nil {
			host, number, err = net.SplitHostPort(s + ":" + port)
		}
		if _, bad := parsePort(number); err != nil || bad != nil || host == "" {
			c.errorf("%s is not a server (want HOST:PORT or [2001:db8::1]:PORT)", quoted(s))
			return ""
		}
		return net.JoinHostPort(host, number)
	}
}

// bindAddress reads where to listen: an address, or none for all of them, and
// a port.
func bindAddress(c *cursor) string {
	s := word(c)
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	_, badAddr := netip.ParseAddr(host)
	_, badPort := parsePort(port)
	if err != nil || badPort != nil || host != "" && badAddr != nil {
		c.errorf("%s is not an address to listen on (want 127.0.0.1:9100, [::1]:9100 or :9100)", quoted(s))
		return ""
	}
	return s
}

// webURL reads an http or https URL.
func webURL(c *cursor) string {
	s := word(c)
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		c.errorf("%s is not a web address (want https://HOST/PATH)", quoted(s))
		return ""
	}
	return s
}

// hardwareAddress reads the MAC of one station.
func hardwareAddress(c *cursor) (mac [6]byte) {
	s := filled(c, "a MAC such as 02:00:00:00:00:11")
	b, err := net.ParseMAC(s)
	if s != "" && (err != nil || len(b) != len(mac) || b[0]&1 != 0 || [6]byte(b) == mac) {
		c.errorf("%s is not the MAC of a station (want one such as 02:00:00:00:00:11, in quotes)", quoted(s))
		return [6]byte{}
	}
	copy(mac[:], b)
	return mac
}
