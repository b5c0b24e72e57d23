package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// tcpChecker connects; if asked to, it also sends something and compares
// the beginning of the reply.
type tcpChecker struct {
	dialer
	to           netip.AddrPort
	send, expect []byte
}

func newTCP(t Target, d dialer) Checker {
	return &tcpChecker{d, netip.AddrPortFrom(t.Real, t.Port), []byte(t.Spec.Send), []byte(t.Spec.Expect)}
}

func (c *tcpChecker) Check(ctx context.Context) error {
	s, err := c.dial(ctx, unix.SOCK_STREAM, 0, c.to)
	if err != nil {
		return stageFailure("tcp connect", err)
	}
	defer s.Close()
	if len(c.send) > 0 {
		if _, err := s.Write(c.send); err != nil {
			return stageFailure("tcp send", err)
		}
	}
	if len(c.expect) == 0 {
		return nil
	}
	reply := make([]byte, len(c.expect))
	n, err := io.ReadFull(s, reply)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return stageFailure("tcp reply", err)
	}
	return comparePrefix("tcp reply", reply[:n], c.expect)
}

// comparePrefix compares the beginning of a reply with what it must be.
func comparePrefix(stage string, reply, want []byte) error {
	if bytes.HasPrefix(reply, want) {
		return nil
	}
	return fmt.Errorf("%s: %q (want %q)", stage, guard.Text(string(reply)), want)
}
