package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// maxBody is how much of a body a pattern can see; maxResponse bounds the
// header, the body and their framing together.
const (
	maxBody     = 64 << 10
	maxResponse = 2 * maxBody
)

// httpChecker sends one request of HTTP/1.1 and looks at the status and, if
// asked to, at the body. It does not follow redirects: a redirect is its
// status. The client of net/http would follow them, keep connections and
// cost two goroutines per probe.
type httpChecker struct {
	dialer
	to      netip.AddrPort
	name    string // "http GET /health"
	request []byte
	method  string
	want    string // as the configuration says it
	status  []statusRange
	match   *regexp.Regexp
	tls     *tls.Config // nil for http
}

func newHTTP(t Target, d dialer) (Checker, error) {
	s := t.Spec
	c := &httpChecker{
		dialer: d,
		to:     netip.AddrPortFrom(t.Real, t.Port),
		name:   fmt.Sprintf("%s %s %s", s.Type, s.Method, s.Path),
		method: s.Method,
		want:   s.Status,
	}
	host := hostHeader(t)
	for what, v := range map[string]string{"method": s.Method, "path": s.Path, "host": host} {
		if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("%s check: %s %q (blanks and control characters must be escaped)", s.Type, what, v)
		}
	}
	if !strings.HasPrefix(s.Path, "/") {
		return nil, fmt.Errorf("%s check: path %q (must begin with /)", s.Type, s.Path)
	}
	c.request = fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: lvx\r\nAccept: */*\r\nConnection: close\r\n\r\n", s.Method, s.Path, host)
	var err error
	if c.status, err = parseStatus(s.Status); err != nil {
		return nil, fmt.Errorf("%s check: %w", s.Type, err)
	}
	if s.Match != "" {
		if c.match, err = regexp.Compile(s.Match); err != nil {
			return nil, fmt.Errorf("%s check: match: %w", s.Type, err)
		}
	}
	if s.Type == HTTPS {
		c.tls, err = tlsConfig(s, host)
	}
	return c, err
}

// hostHeader is what the real is asked for: the configured host, else the
// VIP, else its own address; with the port where it is not the scheme's.
func hostHeader(t Target) string {
	if t.Spec.Host != "" {
		return t.Spec.Host
	}
	addr := t.VIP
	if !addr.IsValid() {
		addr = t.Real
	}
	if t.Spec.Type == HTTP && t.Port == 80 || t.Spec.Type == HTTPS && t.Port == 443 {
		if addr.Is6() {
			return "[" + addr.String() + "]"
		}
		return addr.String()
	}
	return netip.AddrPortFrom(addr, t.Port).String()
}

func tlsConfig(s Spec, host string) (*tls.Config, error) {
	name := s.SNI
	if name == "" {
		name = host
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = h
		}
		name = strings.Trim(name, "[]")
	}
	cfg := &tls.Config{ServerName: name, InsecureSkipVerify: s.SkipVerify}
	if s.CA == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, fmt.Errorf("https check: CA: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("https check: no PEM certificate in CA file %s", s.CA)
	}
	return cfg, nil
}

func (c *httpChecker) Check(ctx context.Context) error {
	s, err := c.dial(ctx, unix.SOCK_STREAM, 0, c.to)
	if err != nil {
		return stageFailure("tcp connect", err)
	}
	defer s.Close()
	if c.tls == nil {
		return c.sendRequest(s)
	}
	t := tls.Client(s, c.tls)
	// The context reaches the handshake as the deadline of s.
	if err := t.Handshake(); err != nil {
		return stageFailure("TLS handshake", cleanServerError(err))
	}
	return c.sendRequest(t)
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

func (c *httpChecker) sendRequest(s io.ReadWriter) error {
	if _, err := s.Write(c.request); err != nil {
		return stageFailure(c.name, err)
	}
	r := readers.Get().(*bufio.Reader)
	defer readers.Put(r)
	limited := &io.LimitedReader{R: s, N: maxResponse}
	r.Reset(limited)
	defer r.Reset(nil)
	resp, err := c.readResponse(r)
	if err != nil && limited.N <= 0 {
		return fmt.Errorf("%s: no answer within %d KiB", c.name, maxResponse>>10)
	}
	if err != nil {
		return stageFailure(c.name, cleanServerError(err))
	}
	if !statusMatches(c.status, resp.StatusCode) {
		return fmt.Errorf("%s: %d%s (want %s)", c.name, resp.StatusCode, redirectText(resp), c.want)
	}
	if c.match == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if c.match.Match(body) {
		return nil
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return stageFailure(c.name+" body", err)
	}
	return fmt.Errorf("%s: body does not match %q", c.name, guard.Text(c.match.String()))
}

// readResponse reads the final response; informational ones come before it.
func (c *httpChecker) readResponse(r *bufio.Reader) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: c.method})
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// cleanServerError keeps the errors of this host as they are. The others quote the
// server (a malformed header, the names in a certificate): they are cleaned.
func cleanServerError(err error) error {
	var no syscall.Errno
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("closed without a complete answer")
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &no):
		return err
	}
	return errors.New(guard.Text(err.Error()))
}

// redirectText says where a redirect would lead.
func redirectText(resp *http.Response) string {
	to := resp.Header.Get("Location")
	if resp.StatusCode < 300 || resp.StatusCode > 399 || to == "" {
		return ""
	}
	return " to " + guard.Text(to) + ", not followed"
}

// statusRange is one element of a status list, ends included.
type statusRange struct{ first, last int }

// parseStatus reads "200-299,301".
func parseStatus(list string) ([]statusRange, error) {
	var all []statusRange
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		r := statusRange{}
		var err1, err2 error
		r.first, err1 = strconv.Atoi(first)
		r.last, err2 = strconv.Atoi(last)
		if err1 != nil || err2 != nil || r.first < 100 || r.last > 999 || r.first > r.last {
			return nil, fmt.Errorf("status %q (want codes and ranges such as 200-299,301)", list)
		}
		all = append(all, r)
	}
	return all, nil
}

func statusMatches(list []statusRange, code int) bool {
	for _, r := range list {
		if r.first <= code && code <= r.last {
			return true
		}
	}
	return false
}
