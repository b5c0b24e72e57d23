package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"

	"golang.org/x/net/http2"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// response is what counts of a server's answer.
type response struct {
	status   int
	location string
	body     io.Reader

	isChunked bool
	length    int64 // that is announced, negative if none is
}

// readFinalResponse reads the final response; informational ones come before
// it.
func readFinalResponse(r *bufio.Reader, method string) (*response, error) {
	for {
		resp, err := readResponse(r, method)
		if err != nil || resp.status >= 200 || resp.status == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// readResponse reads a response of HTTP/1 as browsers do: a line of the
// header that is not one is passed over, and text is taken as it comes.
// net/http refuses both.
func readResponse(r *bufio.Reader, method string) (*response, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	version, rest, ok := strings.Cut(line, " ")
	if !ok {
		return nil, fmt.Errorf("malformed HTTP response %q", line)
	}
	code, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 {
		return nil, fmt.Errorf("malformed HTTP status code %q", code)
	}
	if _, _, ok := http.ParseHTTPVersion(version); !ok {
		return nil, fmt.Errorf("malformed HTTP version %q", version)
	}
	resp := &response{status: status, length: -1}
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		resp.applyHeader(strings.ToLower(name), strings.TrimSpace(value))
	}
	switch {
	case method == http.MethodHead || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified:
		resp.body = strings.NewReader("")
	case resp.isChunked: // which overrides a length (RFC 9112 section 6.3)
		resp.body = httputil.NewChunkedReader(r)
	case resp.length >= 0:
		resp.body = &exactReader{r, resp.length}
	default:
		resp.body = r
	}
	return resp, nil
}

func (resp *response) applyHeader(name, value string) {
	switch name {
	case "location":
		resp.location = value
	case "transfer-encoding":
		resp.isChunked = resp.isChunked || strings.Contains(strings.ToLower(value), "chunked")
	case "content-length":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 && resp.length < 0 {
			resp.length = n
		}
	}
}

// readLine reads a line without its end; at the end of the stream it is an
// error.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// exactReader reads as many bytes as were promised; fewer are an error.
type exactReader struct {
	r    io.Reader
	left int64
}

func (e *exactReader) Read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(b[:min(int64(len(b)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// askHTTP2 sends the request over a connection on which the server expects
// HTTP/2. isAnswer reports whether it has answered.
func (c *httpChecker) askHTTP2(ctx context.Context, s net.Conn) (isAnswer bool, err error) {
	//nolint:staticcheck // its successor in net/http dials by itself; this connection is there
	t := &http2.Transport{AllowHTTP: true, DisableCompression: true, MaxHeaderListSize: maxResponse}
	client, err := t.NewClientConn(s) //nolint:staticcheck // see above
	if err != nil {
		return false, stageFailure(c.name, cleanServerError(err))
	}
	defer client.Close()
	request := &http.Request{
		Method: c.method, URL: c.url, Host: c.url.Host,
		Header: http.Header{"User-Agent": {"lvx"}, "Accept": {"*/*"}},
	}
	got, err := client.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return false, stageFailure(c.name, cleanServerError(err))
	}
	defer got.Body.Close()
	return true, c.judge(&response{
		status: got.StatusCode, location: got.Header.Get("Location"), body: io.LimitReader(got.Body, c.limit()),
	})
}

// redirectText says where a redirect would lead.
func redirectText(resp *response) string {
	to := resp.location
	if resp.status < 300 || resp.status > 399 || to == "" {
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
