package health

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ICMP (RFC 792) and ICMPv6 (RFC 4443) as far as an echo needs them.
const (
	echoReply    = 0
	echoRequest  = 8
	echoReply6   = 129
	echoRequest6 = 128
	echoLen      = 8 + 24 // header and a little payload
)

// icmpChecker sends an ICMP echo request.
type icmpChecker struct {
	dialer
	to netip.AddrPort
}

func newICMP(t Target, d dialer) Checker { return &icmpChecker{d, netip.AddrPortFrom(t.Real, 0)} }

func (c *icmpChecker) Check(ctx context.Context) error {
	isIPv6, protocol := c.to.Addr().Is6(), unix.IPPROTO_ICMP
	if isIPv6 {
		protocol = unix.IPPROTO_ICMPV6
	}
	s, err := c.dial(ctx, unix.SOCK_RAW, protocol, c.to)
	if err != nil {
		return stageFailure("icmp echo", err)
	}
	defer s.Close()
	// A raw socket sees every echo reply of this real: the number
	// separates this probe's from those of other probes and of other programs.
	number := rand.Uint64()
	if _, err := s.Write(echoRequestFor(number, isIPv6)); err != nil {
		return stageFailure("icmp echo", err)
	}
	var b [maxDatagram]byte
	for {
		n, err := s.readDatagram(b[:])
		if err != nil {
			return stageFailure("icmp echo", err)
		}
		if isReplyTo(b[:n], number, isIPv6) {
			return nil
		}
	}
}

// echoRequestFor makes a request. Its identifier and sequence are the low half
// of number; all of number is in the payload. The kernel fills in the checksum
// of ICMPv6 (RFC 3542 section 3.1).
func echoRequestFor(number uint64, isIPv6 bool) []byte {
	b := make([]byte, echoLen)
	b[0] = echoRequest
	if isIPv6 {
		b[0] = echoRequest6
	}
	binary.BigEndian.PutUint32(b[4:], uint32(number))
	binary.BigEndian.PutUint64(b[8:], number)
	if !isIPv6 {
		binary.BigEndian.PutUint16(b[2:], ^onesSum(b))
	}
	return b
}

// isReplyTo reports whether a packet is the reply to echoRequestFor(number): a
// raw socket of IPv4 delivers the header too, one of IPv6 the message alone.
func isReplyTo(packet []byte, number uint64, isIPv6 bool) bool {
	want := byte(echoReply6)
	if !isIPv6 {
		want = echoReply
		if len(packet) < 20 || packet[0]>>4 != 4 {
			return false
		}
		header := int(packet[0]&15) * 4
		if header < 20 || len(packet) < header {
			return false
		}
		packet = packet[header:]
	}
	return len(packet) >= 16 && packet[0] == want && packet[1] == 0 &&
		binary.BigEndian.Uint32(packet[4:]) == uint32(number) &&
		binary.BigEndian.Uint64(packet[8:]) == number
}

// onesSum is the ones' complement sum of RFC 1071 over an even number of bytes.
func onesSum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
