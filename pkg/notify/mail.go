package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// mailer sends one mail per message through an SMTP server (RFC 5321).
type mailer struct{ SMTP }

func newMailer(s SMTP) (*mailer, error) {
	if _, _, err := net.SplitHostPort(s.Server); err != nil {
		return nil, fmt.Errorf("notify smtp server %q (want HOST:PORT)", guard.Text(s.Server))
	}
	if len(s.To) == 0 {
		return nil, errors.New("notify smtp: nobody to send mail to")
	}
	for _, a := range append([]string{s.From}, s.To...) {
		if a == "" || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '<' || r == '>' }) {
			return nil, fmt.Errorf("notify smtp: address %q (want name@host)", guard.Text(a))
		}
	}
	return &mailer{s}, nil
}

func (m *mailer) String() string { return "mail by " + m.Server }

func (m *mailer) patience() (time.Duration, int) { return 30 * time.Second, 3 }

func (m *mailer) send(ctx context.Context, msg message) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", m.Server)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	refused, err := m.converse(conn, msg)
	if err != nil {
		return said(err)
	}
	if len(refused) > 0 {
		return refused
	}
	return nil
}

// refusedError says which of several addresses the server has refused. The others
// have the mail.
type refusedError []string

func (e refusedError) Error() string { return strings.Join(e, ", ") + "; the others have it" }

// converse is one session with the server. It fails if the server refuses every
// address.
func (m *mailer) converse(conn net.Conn, msg message) (refused refusedError, err error) {
	host, _, _ := net.SplitHostPort(m.Server) // newMailer has looked
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return nil, err
	}
	if err := c.Hello(helo(msg.host)); err != nil {
		return nil, err
	}
	if err := c.Mail(m.From); err != nil {
		return nil, err
	}
	for _, to := range m.To {
		var reply *textproto.Error
		err := c.Rcpt(to)
		if err != nil && (!errors.As(err, &reply) || len(refused) == len(m.To)-1) {
			return nil, fmt.Errorf("%s: %w", to, err)
		}
		if err != nil {
			refused = append(refused, guard.Text(fmt.Sprintf("%s: %v", to, said(err))))
		}
	}
	w, err := c.Data()
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(m.compose(msg)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	// The mail is accepted; how the server says goodbye changes nothing.
	_ = c.Quit()
	return refused, nil
}

// said cleans what the server said.
func said(err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return fmt.Errorf("server says %d %s", reply.Code, guard.Text(reply.Msg))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("timeout")
	}
	return errors.New(guard.Text(err.Error()))
}

// helo is the name that a client presents itself by: one word.
func helo(host string) string {
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "localhost"
	}
	return host
}

// compose writes the mail (RFC 5322). All lines come from texts that are
// clean, so that none can add a header.
func (m *mailer) compose(msg message) []byte {
	var b bytes.Buffer
	subject := fmt.Sprintf("[lvx %s] %s", msg.host, msg.text())
	for _, h := range [][2]string{
		{"From", m.From},
		{"To", strings.Join(m.To, ",\r\n ")},
		{"Subject", mime.QEncoding.Encode("utf-8", guard.Text(subject))},
		{"Date", msg.Time.Format(time.RFC1123Z)},
		{"Message-ID", fmt.Sprintf("<%d.%d@%s>", msg.Time.UnixNano(), rand.Uint64(), helo(msg.host))},
		{"Auto-Submitted", "auto-generated"}, // RFC 3834: no vacation replies
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	body := quotedprintable.NewWriter(&b)
	if len(msg.lines) > 0 {
		fmt.Fprintf(body, "Host:    %s\r\n\r\n", msg.host)
		for _, l := range msg.lines {
			fmt.Fprintf(body, "%s\r\n", l)
		}
		return flush(body, &b)
	}
	for _, l := range [][2]string{
		{"Host", msg.host},
		{"Time", msg.Time.Format(time.RFC3339)},
		{"Kind", string(msg.Kind)},
		{"Name", msg.Name},
		{"Service", msg.service()},
		{"Change", msg.Old + " -> " + msg.New},
		{"Reason", msg.Reason},
	} {
		if l[1] != "" {
			fmt.Fprintf(body, "%-8s %s\r\n", l[0]+":", l[1])
		}
	}
	if msg.changes > 1 {
		fmt.Fprintf(body, "This tells of %d changes.\r\n", msg.changes)
	}
	return flush(body, &b)
}

// flush ends a body; a bytes.Buffer takes everything.
func flush(body io.Closer, b *bytes.Buffer) []byte {
	_ = body.Close()
	return b.Bytes()
}

// maxLines bounds a summary.
const maxLines = 500

// summarise makes one mail of several messages.
func (m *mailer) summarise(ms []message) message {
	sum := ms[len(ms)-1]
	sum.changes = 0
	for i, one := range ms {
		sum.changes += one.changes
		if i == maxLines {
			sum.lines = append(sum.lines, fmt.Sprintf("and %d more", len(ms)-maxLines))
		}
		if i < maxLines {
			sum.lines = append(sum.lines, one.Time.Format(time.RFC3339)+" "+one.text())
		}
	}
	return sum
}
