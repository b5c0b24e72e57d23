package lb

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Tracer is implemented by backends that can show packets as they decide
// them.
type Tracer interface {
	// Trace begins to watch the packets that the filter wants, with at most
	// keep bytes of their frames. It fails while somebody else watches.
	Trace(f TraceFilter, keep int) (Trace, error)
}

// Trace is a watch over packets. Its methods may be called from any
// goroutine, also while the backend is used.
type Trace interface {
	// Next waits for the next packet.
	Next(ctx context.Context) (TracedPacket, error)

	// Lost is how many packets were not shown because Next was not called
	// fast enough. They were served all the same.
	Lost() uint64

	// Close ends the watch; the packet path is then as it was before.
	Close() error
}

// TracedPacket is a packet and what was decided on it.
type TracedPacket struct {
	Time        time.Time      `json:"time"`
	Interface   string         `json:"interface"` // that it came by
	Protocol    string         `json:"protocol,omitempty"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	Explanation
	LengthIn  int    `json:"length_in"`            // of the frame as it came
	LengthOut int    `json:"length_out,omitempty"` // of the frame as the driver got it, 0 if it did not
	FrameIn   []byte `json:"frame_in,omitempty"`   // the start of these
	FrameOut  []byte `json:"frame_out,omitempty"`
}

// TraceFilter says which packets are wanted: those of which everything holds.
type TraceFilter struct {
	Version  int            // of IP: 4 or 6, 0 = any
	Nets     []netip.Prefix // the source or the destination is in each; at most two, of the family of Version
	Ports    []uint16       // the source's or the destination's is each; at most two
	Protocol Protocol       // 0 = any
	Verdicts []string       // one of them; none = any
}

// traceTerms is how often a filter may say host or net, and how often port.
const traceTerms = 2

// ParseTraceFilter reads the words of a filter: host ADDR, net PREFIX, port N,
// tcp, udp, icmp, icmp6, proto N, ip, ip6, verdict NAME[,NAME]; "and" between them
// changes nothing.
func ParseTraceFilter(words []string) (f TraceFilter, err error) {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch word {
		case "and":
			continue
		case "tcp":
			f.Protocol = TCP
			continue
		case "udp":
			f.Protocol = UDP
			continue
		case "icmp":
			f.Protocol = ICMP
			continue
		case "icmp6":
			f.Protocol = ICMPv6
			continue
		case "ip", "ip6":
			version := 4
			if word == "ip6" {
				version = 6
			}
			if err := f.want(version); err != nil {
				return f, err
			}
			continue
		case "host", "net", "port", "proto", "verdict":
		default:
			return f, fmt.Errorf("filter: %q is not known (host, net, port, tcp, udp, icmp, icmp6, proto, ip, ip6, verdict)", word)
		}
		if len(words) == 0 {
			return f, fmt.Errorf("filter: nothing follows %q", word)
		}
		if err := f.add(word, words[0]); err != nil {
			return f, err
		}
		words = words[1:]
	}
	return f, nil
}

// want asks for a version of IP.
func (f *TraceFilter) want(version int) error {
	if f.Version != 0 && f.Version != version {
		return errors.New("filter: no packet is of both IPv4 and IPv6 (name one of them)")
	}
	f.Version = version
	return nil
}

// add reads a word that has a value.
func (f *TraceFilter) add(word, value string) error {
	switch word {
	case "host", "net":
		p, err := parsePrefix(value)
		if err != nil {
			return fmt.Errorf("filter: %s %q: not an address or prefix", word, value)
		}
		version := 6
		if p.Addr().Is4() {
			version = 4
		}
		if err := f.want(version); err != nil {
			return err
		}
		f.Nets = append(f.Nets, p.Masked())
	case "port":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("filter: port %q: not 1 to 65535", value)
		}
		f.Ports = append(f.Ports, uint16(n))
	case "proto":
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil {
			return fmt.Errorf("filter: proto %q: not 0 to 255", value)
		}
		f.Protocol = Protocol(n)
	case "verdict":
		f.Verdicts = append(f.Verdicts, strings.Split(value, ",")...)
	}
	if len(f.Nets) > traceTerms || len(f.Ports) > traceTerms {
		return fmt.Errorf("filter: more than %d times %s", traceTerms, word)
	}
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
