package health

import (
	"context"
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// maxDatagram bounds what is read of a reply.
const maxDatagram = 4 << 10

// udpChecker sends a datagram. Any reply, or one that starts with what is
// expected, is a pass. So is silence until the timeout if the check neither
// sends nor expects anything, because many servers do not answer an empty
// datagram (keepalived's UDP_CHECK without require_reply); a closed port is
// a failure always.
type udpChecker struct {
	dialer
	to           netip.AddrPort
	send, expect []byte
}

func newUDP(t Target, d dialer) Checker {
	return &udpChecker{d, netip.AddrPortFrom(t.Real, t.Port), []byte(t.Spec.Send), []byte(t.Spec.Expect)}
}

func (c *udpChecker) Check(ctx context.Context) error {
	s, err := c.dial(ctx, unix.SOCK_DGRAM, 0, c.to)
	if err != nil {
		return stageFailure("udp send", err)
	}
	defer s.Close()
	if _, err := s.Write(c.send); err != nil {
		return stageFailure("udp send", err)
	}
	var reply [maxDatagram]byte
	n, err := s.readDatagram(reply[:])
	switch {
	case err == nil:
		return comparePrefix("udp reply", reply[:n], c.expect)
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(err, os.ErrDeadlineExceeded) && len(c.send) == 0 && len(c.expect) == 0:
		return nil // a check that is broken off has not waited for the answer
	}
	return stageFailure("udp reply", err)
}
