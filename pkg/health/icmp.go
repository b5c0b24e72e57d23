package health

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ICMP (RFC 792) as far as an echo needs it.
const (
	echoReply   = 0
	echoRequest = 8
	echoLen     = 8 + 24 // header and a little payload
)

// icmpChecker sends an ICMP echo request, IPv4 only.
type icmpChecker struct {
	dialer
	to netip.AddrPort
}

func newICMP(t Target, d dialer) (Checker, error) {
	if !t.Real.Is4() {
		return nil, errors.New("icmp check of an IPv6 address (icmp checks are IPv4 only)")
	}
	return &icmpChecker{d, netip.AddrPortFrom(t.Real, 0)}, nil
}

func (c *icmpChecker) Check(ctx context.Context) error {
	s, err := c.dial(ctx, unix.SOCK_RAW, unix.IPPROTO_ICMP, c.to)
	if err != nil {
		return stageFailure("icmp echo", err)
	}
	defer s.Close()
	// A raw socket sees every echo reply of this real: the number
	// separates this probe's from those of other probes and of other programs.
	number := rand.Uint64()
	if _, err := s.Write(echoRequestFor(number)); err != nil {
		return stageFailure("icmp echo", err)
	}
	var b [maxDatagram]byte
	for {
		n, err := s.readDatagram(b[:])
		if err != nil {
			return stageFailure("icmp echo", err)
		}
		if isReplyTo(b[:n], number) {
			return nil
		}
	}
}

// echoRequestFor makes a request. Its identifier and sequence are the low half of
// number; all of number is in the payload.
func echoRequestFor(number uint64) []byte {
	b := make([]byte, echoLen)
	b[0] = echoRequest
	binary.BigEndian.PutUint32(b[4:], uint32(number))
	binary.BigEndian.PutUint64(b[8:], number)
	binary.BigEndian.PutUint16(b[2:], ^onesSum(b))
	return b
}

// isReplyTo reports whether an IPv4 packet is the reply to echo(number).
func isReplyTo(packet []byte, number uint64) bool {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return false
	}
	header := int(packet[0]&15) * 4
	if header < 20 || len(packet) < header+16 {
		return false
	}
	m := packet[header:]
	return m[0] == echoReply && m[1] == 0 &&
		binary.BigEndian.Uint32(m[4:]) == uint32(number) &&
		binary.BigEndian.Uint64(m[8:]) == number
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
