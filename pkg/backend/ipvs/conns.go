package ipvs

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// parseConnections reads /proc/net/ip_vs_conn (ip_vs_conn.c:
// ip_vs_conn_seq_show) and calls yield for each entry until that returns
// false. Fields are separated by blanks: protocol, client, port, virtual
// address, port, real, port, state, seconds; addresses and ports in
// hexadecimal, IPv6 addresses with colons. A line that it does not
// understand is an error.
func parseConnections(r io.Reader, yield func(lb.Connection) bool) error {
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		if n == 1 && strings.HasPrefix(sc.Text(), "Pro ") {
			continue
		}
		c, err := parseConnection(sc.Text())
		if err != nil {
			return fmt.Errorf("list of connections: line %d: %w", n, err)
		}
		if !yield(c) {
			return nil
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("list of connections: %w", err)
	}
	return nil
}

func parseConnection(line string) (lb.Connection, error) {
	f := strings.Fields(line)
	if len(f) < 9 {
		return lb.Connection{}, fmt.Errorf("%d fields, expected 9 or more", len(f))
	}
	var c lb.Connection
	var err error
	if c.Proto, err = parseProtocol(f[0]); err != nil {
		return c, err
	}
	for i, end := range []*netip.AddrPort{&c.Client, &c.Virtual, &c.Real} {
		if *end, err = parseEnd(f[1+2*i], f[2+2*i]); err != nil {
			return c, err
		}
	}
	left, err := strconv.ParseUint(f[8], 10, 32)
	if err != nil {
		return c, fmt.Errorf("seconds %q", f[8])
	}
	c.State, c.Expires = f[7], time.Duration(left)*time.Second
	// A template stands for every port of its client.
	c.Template = c.Client.Port() == 0
	return c, nil
}

// parseProtocol reads ip_vs_proto_name: names, "IP" for the template of a
// mark, "IP_%u" for the rest.
func parseProtocol(s string) (lb.Protocol, error) {
	switch s {
	case "TCP":
		return lb.TCP, nil
	case "UDP":
		return lb.UDP, nil
	case "IP":
		return 0, nil
	case "SCTP":
		return 132, nil
	case "ICMP":
		return 1, nil
	case "ICMPv6":
		return 58, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "IP_"), 10, 8)
	if err != nil || !strings.HasPrefix(s, "IP_") {
		return 0, fmt.Errorf("protocol %q", s)
	}
	return lb.Protocol(n), nil
}

func parseEnd(addr, port string) (netip.AddrPort, error) {
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q", port)
	}
	if strings.Contains(addr, ":") {
		a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
		if err != nil || a.Zone() != "" || !a.Is6() {
			return netip.AddrPort{}, fmt.Errorf("address %q", addr)
		}
		return netip.AddrPortFrom(a, uint16(p)), nil
	}
	b, err := hex.DecodeString(addr)
	if err != nil || len(b) != 4 {
		return netip.AddrPort{}, fmt.Errorf("address %q", addr)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(p)), nil
}
