package health

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// maxBody is how much of a body a pattern can see; maxResponse bounds the
// header, the body and their framing together, maxDigested the same for a body
// whose digest is asked for.
const (
	maxBody     = 64 << 10
	maxResponse = 2 * maxBody
	maxDigested = 16 << 20
)

// httpChecker sends one request of HTTP/1.1, or of HTTP/2 where the server
// wants it, and looks at the status and, if asked to, at the body. It does not
// follow redirects: a redirect is its status. The client of net/http would
// follow them, keep connections and cost two goroutines per probe; and it
// refuses answers with headers that a browser takes.
type httpChecker struct {
	dialer
	to      netip.AddrPort
	name    string // "http GET /health"
	request []byte
	method  string
	want    string // as the configuration says it
	status  []statusRange
	match   *regexp.Regexp
	noMatch *regexp.Regexp
	digest  string
	tls     *tls.Config  // nil for http
	trusted *authorities // nil for the system's
	url     *url.URL     // for HTTP/2

	speaksHTTP2 atomic.Bool // over plain TCP it was HTTP/2 that worked
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
	if c.match, err = compile(s.Match); err != nil {
		return nil, fmt.Errorf("%s check: match: %w", s.Type, err)
	}
	if c.noMatch, err = compile(s.NoMatch); err != nil {
		return nil, fmt.Errorf("%s check: no_match: %w", s.Type, err)
	}
	c.digest = strings.ToLower(s.Digest)
	if c.url, err = url.Parse(string(s.Type) + "://" + host + s.Path); err != nil {
		return nil, fmt.Errorf("%s check: %w", s.Type, err)
	}
	if s.Type == HTTPS {
		c.tls, err = tlsConfig(s, host)
	}
	if s.CA != "" {
		c.trusted = &authorities{path: s.CA}
	}
	return c, err
}

// compile is nil for no pattern.
func compile(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, nil
	}
	return regexp.Compile(pattern)
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

func (c *httpChecker) Check(ctx context.Context) error {
	if c.trusted != nil && c.trusted.pool == nil {
		if _, err := c.trusted.read(ctx); err != nil {
			return fmt.Errorf("%s: %w: %w", c.name, ErrNotAsked, err)
		}
	}
	if c.speaksHTTP2.Load() {
		if isAnswer, err := c.tryHTTP2(ctx); isAnswer {
			return err
		}
		c.speaksHTTP2.Store(false)
	}
	isAnswer, err := c.tryHTTP1(ctx)
	if isAnswer || c.tls != nil || ctx.Err() != nil {
		return err
	}
	// Something took the connection and does not speak HTTP/1.1: it may be a
	// server of HTTP/2 alone, which a client is to know beforehand (RFC 9113
	// section 3.3).
	if isAnswer, err2 := c.tryHTTP2(ctx); isAnswer {
		c.speaksHTTP2.Store(true)
		return err2
	}
	return err
}

// tryHTTP2 asks over a plain connection on which the server must expect
// HTTP/2. isAnswer reports whether it has answered.
func (c *httpChecker) tryHTTP2(ctx context.Context) (isAnswer bool, err error) {
	s, err := c.dial(ctx, unix.SOCK_STREAM, 0, c.to)
	if err != nil {
		return false, stageFailure("tcp connect", err)
	}
	defer s.Close()
	return c.askHTTP2(ctx, s)
}

// tryHTTP1 asks with HTTP/1.1, or over TLS with what the server chose.
// isAnswer reports whether the outcome is a verdict: the server spoke HTTP, said
// nothing, or there was no connection.
func (c *httpChecker) tryHTTP1(ctx context.Context) (isAnswer bool, err error) {
	s, err := c.dial(ctx, unix.SOCK_STREAM, 0, c.to)
	if err != nil {
		return true, stageFailure("tcp connect", err)
	}
	defer s.Close()
	if c.tls == nil {
		return c.askHTTP1(s)
	}
	cfg := c.tls
	if c.trusted != nil {
		cfg = cfg.Clone()
		cfg.RootCAs = c.trusted.pool
	}
	t := tls.Client(s, cfg)
	// The context reaches the handshake as the deadline of s.
	if err := t.Handshake(); err != nil {
		if c.trusted != nil && isUntrusted(err) {
			if changed, _ := c.trusted.read(ctx); changed { // else the handshake says enough
				return c.tryHTTP1(ctx)
			}
		}
		return true, stageFailure("TLS handshake", cleanServerError(err))
	}
	if t.ConnectionState().NegotiatedProtocol == http2.NextProtoTLS {
		_, err := c.askHTTP2(ctx, t)
		return true, err
	}
	return c.askHTTP1(t)
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

func (c *httpChecker) askHTTP1(s io.ReadWriter) (isAnswer bool, err error) {
	if _, err := s.Write(c.request); err != nil {
		return true, stageFailure(c.name, err)
	}
	r := readers.Get().(*bufio.Reader)
	defer readers.Put(r)
	limited := &io.LimitedReader{R: s, N: c.limit()}
	r.Reset(limited)
	defer r.Reset(nil)
	resp, err := readFinalResponse(r, c.method)
	switch {
	case err != nil && limited.N <= 0:
		return true, fmt.Errorf("%s: no answer within %d KiB", c.name, c.limit()>>10)
	case err != nil:
		return errors.Is(err, os.ErrDeadlineExceeded), stageFailure(c.name, cleanServerError(err))
	}
	return true, c.judge(resp)
}

// limit bounds what is read: a digest needs the whole body.
func (c *httpChecker) limit() int64 {
	if c.digest != "" {
		return maxDigested
	}
	return maxResponse
}

// judge looks at the status and the body of the final response.
func (c *httpChecker) judge(resp *response) error {
	if !statusMatches(c.status, resp.status) {
		return fmt.Errorf("%s: %d%s (want %s)", c.name, resp.status, redirectText(resp), c.want)
	}
	if c.digest != "" {
		return c.judgeDigest(resp.body)
	}
	if c.match == nil && c.noMatch == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.body, maxBody))
	switch {
	case c.noMatch != nil && c.noMatch.Match(body):
		return fmt.Errorf("%s: body matches %q", c.name, guard.Text(c.noMatch.String()))
	case c.match != nil && c.match.Match(body):
		return nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return stageFailure(c.name+" body", cleanServerError(err))
	case c.match == nil:
		return nil
	}
	return fmt.Errorf("%s: body does not match %q", c.name, guard.Text(c.match.String()))
}

// judgeDigest compares the MD5 of the whole body, which tells versions of a
// page apart and protects nothing.
func (c *httpChecker) judgeDigest(body io.Reader) error {
	h := md5.New()
	if _, err := io.Copy(h, body); err != nil {
		return stageFailure(c.name+" body", cleanServerError(err))
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != c.digest {
		return fmt.Errorf("%s: digest %s (want %s)", c.name, sum, c.digest)
	}
	return nil
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
