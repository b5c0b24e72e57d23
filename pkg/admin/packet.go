package admin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// packetQuery is a packet as parsePacket reads it.
func packetQuery(p lb.Packet) url.Values {
	q := url.Values{
		"protocol": {p.Proto.String()}, "src": {p.Src.String()}, "dst": {p.Dst.String()}, "flags": {p.Flags},
		"size": {strconv.Itoa(p.Size)}, "type": {strconv.Itoa(int(p.ICMPType))}, "code": {strconv.Itoa(int(p.ICMPCode))},
	}
	if p.Quotes != nil {
		quoted, _ := json.Marshal(packetQuery(*p.Quotes)) // strings: it cannot fail
		q.Set("quotes", string(quoted))
	}
	return q
}

func parsePacket(q url.Values) (p lb.Packet, err error) {
	p.Flags = q.Get("flags")
	switch proto := q.Get("protocol"); proto {
	case "tcp":
		p.Proto = lb.TCP
	case "udp":
		p.Proto = lb.UDP
	case "icmp":
		p.Proto = lb.ICMP
	case "icmp6":
		p.Proto = lb.ICMPv6
	default:
		return p, fmt.Errorf("protocol %q: unknown (tcp, udp, icmp or icmp6)", proto)
	}
	if p.Src, err = netip.ParseAddrPort(q.Get("src")); err != nil {
		return p, fmt.Errorf("source %q: not ADDR:PORT", q.Get("src"))
	}
	if p.Dst, err = netip.ParseAddrPort(q.Get("dst")); err != nil {
		return p, fmt.Errorf("destination %q: not ADDR:PORT", q.Get("dst"))
	}
	if strings.Trim(p.Flags, "SAFRPU") != "" {
		return p, fmt.Errorf("flags %q: unknown (letters of SAFRPU)", p.Flags)
	}
	size, err := optionalNumber(q, "size", 16)
	p.Size = int(size)
	if err == nil {
		size, err = optionalNumber(q, "type", 8)
		p.ICMPType = uint8(size)
	}
	if err == nil {
		size, err = optionalNumber(q, "code", 8)
		p.ICMPCode = uint8(size)
	}
	if err != nil {
		return p, err
	}
	return p, parseQuoted(q.Get("quotes"), &p)
}

// parseQuoted reads the connection that an ICMP error is about.
func parseQuoted(text string, p *lb.Packet) error {
	if text == "" {
		return nil
	}
	var q url.Values
	if err := json.Unmarshal([]byte(text), &q); err != nil {
		return fmt.Errorf("quoted packet: %w", err)
	}
	q.Del("quotes")
	quoted, err := parsePacket(q)
	if err != nil {
		return fmt.Errorf("quoted packet: %w", err)
	}
	p.Quotes = &quoted
	return nil
}

func optionalNumber(q url.Values, key string, bits int) (uint64, error) {
	if q.Get(key) == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(q.Get(key), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("%s %q: not 0 to %d", key, q.Get(key), 1<<bits-1)
	}
	return n, nil
}
