package ipvsadm

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// isSpace is isspace(3) of the C locale.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// parseLong is strtol(3) to the base of 10, with nothing behind the number.
func parseLong(s string) (int64, bool) {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// parseNumber is string_to_number.
func parseNumber(s string, least, most int) (int, bool) {
	n, ok := parseLong(s)
	return int(n), ok && int64(least) <= n && n <= int64(most)
}

// leadingNumber is atoi(3).
func leadingNumber(s string) int {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || end == 0 && (s[0] == '-' || s[0] == '+')) {
		end++
	}
	n, err := strconv.ParseInt(s[:end], 10, 32)
	if err != nil {
		return 0
	}
	return int(n)
}

// parseIPv4 is inet_aton(3): one to four numbers, the last of which fills
// what is left of the address; octal with a leading 0, hexadecimal with 0x.
// What follows a blank does not count.
func parseIPv4(s string) (netip.Addr, bool) {
	if i := strings.IndexFunc(s, func(r rune) bool { return r < 0x80 && isSpace(byte(r)) }); i >= 0 {
		s = s[:i]
	}
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	value := uint64(0)
	for i, part := range parts {
		n, ok := parsePart(part)
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
		}
		if !ok || n >= 1<<bits {
			return netip.Addr{}, false
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// parsePart is a number of inet_aton: digits only, no sign, no underscores.
func parsePart(s string) (uint64, bool) {
	base, digits := 10, s
	switch {
	case strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0X"):
		base, digits = 16, s[2:]
	case len(s) > 1 && s[0] == '0':
		base, digits = 8, s[1:]
	}
	if digits == "" || digits[0] == '+' || digits[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, base, 64)
	return n, err == nil
}

// place is an address with or without a port, as parse_service reads it.
type place struct {
	addr    netip.Addr
	port    uint16
	hasPort bool
	ok      bool
}

// parseAddress reads "host", "host:port", "[v6]:port" and "v6".
func (p *parser) parseAddress(text string, proto lb.Protocol) place {
	if allDigits(text) {
		return place{}
	}
	var at place
	port := ""
	var ok bool
	if rest, bracketed := strings.CutPrefix(text, "["); bracketed {
		host, after, closed := strings.Cut(rest, "]")
		if !closed || !strings.HasPrefix(after, ":") {
			return place{}
		}
		text, port, at.hasPort = host, after[1:], true
	}
	if a, err := netip.ParseAddr(text); err == nil && strings.Contains(text, ":") && a.Zone() == "" {
		at.addr = a
	} else {
		at.hasPort = false
		if i := strings.LastIndexByte(text, ':'); i >= 0 {
			text, port, at.hasPort = text[:i], text[i+1:], true
		}
		if at.addr, ok = parseIPv4(text); !ok {
			if at.addr, ok = p.host.Addr(text); !ok {
				return place{}
			}
		}
	}
	if at.hasPort {
		n, ok := parseNumber(port, 0, 65535)
		at.port = uint16(n)
		if !ok {
			if at.port, ok = p.host.Port(port, proto); !ok {
				return place{}
			}
		}
	}
	at.ok = true
	return at
}

func allDigits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}
