package health

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// maxMailReply bounds what is read of a mail server's replies together.
const maxMailReply = 16 << 10

// smtpChecker holds the shortest dialogue with a mail server that shows that
// it takes mail (keepalived's SMTP_CHECK): greeting, HELO, QUIT.
type smtpChecker struct {
	dialer
	to   netip.AddrPort
	helo string
}

func newSMTP(t Target, d dialer) (Checker, error) {
	for _, r := range t.Spec.Helo {
		if r <= ' ' || r >= 0x7f {
			return nil, fmt.Errorf("smtp check: helo %q (want a name without blanks)", t.Spec.Helo)
		}
	}
	return &smtpChecker{d, netip.AddrPortFrom(t.Real, t.Port), t.Spec.Helo}, nil
}

func (c *smtpChecker) Check(ctx context.Context) error {
	s, err := c.dial(ctx, unix.SOCK_STREAM, 0, c.to)
	if err != nil {
		return stageFailure("tcp connect", err)
	}
	defer s.Close()
	r := bufio.NewReader(io.LimitReader(s, maxMailReply))
	for _, step := range []struct{ say, want string }{
		{"", "220"},
		{"HELO " + c.helo + "\r\n", "250"},
	} {
		if step.say != "" {
			if _, err := io.WriteString(s, step.say); err != nil {
				return stageFailure("smtp HELO", err)
			}
		}
		if err := wantReply(r, step.want); err != nil {
			return err
		}
	}
	_, _ = io.WriteString(s, "QUIT\r\n") // what the server answers to that is its own business
	return nil
}

// wantReply reads a reply of one or more lines (RFC 5321 section 4.2).
func wantReply(r *bufio.Reader, want string) error {
	for {
		line, err := readLine(r)
		if err != nil {
			return stageFailure("smtp reply", cleanServerError(err))
		}
		if len(line) < 3 || line[:3] != want {
			return fmt.Errorf("smtp reply: %q (want %s)", guard.Text(line), want)
		}
		if len(line) == 3 || line[3] != '-' {
			return nil
		}
	}
}
