package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Client asks a daemon through its socket. Its errors are one line for
// people; what the daemon refused is said in the daemon's words.
type Client struct {
	socket   string
	http     *http.Client
	patience time.Duration // until the daemon begins to answer, and goes on
	longest  int64         // answer that is read
}

// patience is how long a daemon may think before it answers: longer than a
// reload of ten thousand services takes.
const patience = 30 * time.Second

// longestAnswer is what is read of an answer: several times what ten thousand
// services take.
const longestAnswer = 256 << 20

// ErrNoDaemon says that nobody answers on the socket.
var ErrNoDaemon = errors.New("no lvx runs here")

// errSilent ends a request that has waited too long.
var errSilent = errors.New("no answer")

// NewClient makes a client; nothing is opened until it is used.
func NewClient(socket string) *Client {
	return &Client{socket: socket, patience: patience, longest: longestAnswer, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Status asks for [director.Director.Status].
func (c *Client) Status(ctx context.Context) (st director.Status, err error) {
	if err := c.do(ctx, http.MethodGet, pathStatus, nil, &st); err != nil {
		return st, err
	}
	if st.Started.IsZero() {
		return st, errors.New("answer of the daemon: it is no status (is it another version?)")
	}
	return st, nil
}

// Losses asks for [director.Director.Losses].
func (c *Client) Losses(ctx context.Context) (losses []director.Loss, err error) {
	return losses, c.do(ctx, http.MethodGet, pathLosses, nil, &losses)
}

// List asks for [director.Director.List].
func (c *Client) List(ctx context.Context, want director.Want) (l director.Listing, err error) {
	path := pathList
	if want.Connections {
		path += "?connections=" + strconv.Itoa(want.Limit)
	}
	return l, c.do(ctx, http.MethodGet, path, nil, &l)
}

// Explain asks for [director.Director.Explain].
func (c *Client) Explain(ctx context.Context, p lb.Packet) (e lb.Explanation, err error) {
	q := packetQuery(p)
	return e, c.do(ctx, http.MethodGet, pathExplain+"?"+q.Encode(), nil, &e)
}

// History asks for [director.Director.History].
func (c *Client) History(ctx context.Context, f history.Filter) (es []history.Event, err error) {
	q := url.Values{"kind": {string(f.Kind)}, "subject": {f.Subject}}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	return es, c.do(ctx, http.MethodGet, pathHistory+"?"+q.Encode(), nil, &es)
}

// Metrics copies what /metrics says to w.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	return c.do(ctx, http.MethodGet, pathMetrics, nil, w)
}

// Diff asks for [director.Director.Diff].
func (c *Client) Diff(ctx context.Context, text []byte) (lines []string, err error) {
	return lines, c.do(ctx, http.MethodPost, pathDiff, diffRequest{text}, &lines)
}

// Reload asks for [director.Director.Reload].
func (c *Client) Reload(ctx context.Context) (r director.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathReload, struct{}{}, &r)
}

// Examine has the daemon look now for what it warns of every few minutes.
func (c *Client) Examine(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, pathExamine, struct{}{}, &struct{}{})
}

// Upgrade asks the daemon to let another binary take over.
func (c *Client) Upgrade(ctx context.Context, binary string) (r director.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathUpgrade, upgradeRequest{binary}, &r)
}

// renewalPause is how often a daemon that starts anew is asked.
const renewalPause = 50 * time.Millisecond

// unchangedTime is how long a daemon may answer as it was before it is taken for
// one that does not start anew.
const unchangedTime = time.Minute

// AwaitRenewal waits until a daemon that started at before has started anew
// and answers, or ctx ends.
func (c *Client) AwaitRenewal(ctx context.Context, before time.Time) (director.Status, error) {
	var unchanged time.Time // since when it answers as it was
	for {
		st, err := c.Status(ctx)
		switch {
		case err == nil && !st.Started.Equal(before):
			return st, nil
		case ctx.Err() != nil:
			return st, fmt.Errorf("the daemon has not started anew: %w (see its log)", context.Cause(ctx))
		case err != nil: // it is starting
		case unchanged.IsZero():
			unchanged = time.Now()
		case time.Since(unchanged) > unchangedTime:
			return st, errors.New("the daemon has not started anew: it goes on as it was (see its log)")
		}
		select {
		case <-ctx.Done():
		case <-time.After(renewalPause):
		}
	}
}

// SetWeight asks for [director.Director.SetWeight].
func (c *Client) SetWeight(ctx context.Context, service, real string, weight *uint16) (r director.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathWeight, weightRequest{service, real, weight}, &r)
}

// Drain asks for [director.Director.Drain].
func (c *Client) Drain(ctx context.Context, service, real string, o director.DrainOptions) (r director.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathDrain, drainRequest{service, real, o}, &r)
}

// DrainDirector asks for [director.Director.DrainDirector].
func (c *Client) DrainDirector(ctx context.Context, undo bool) (r director.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathDrainDirector, drainDirectorRequest{undo}, &r)
}

// Edit asks for [director.Director.Edit].
func (c *Client) Edit(ctx context.Context, commands []ipvsadm.Command) (r ipvsadm.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathEdit, commands, &r)
}

// ClearRuntime asks for [director.Director.ClearRuntime].
func (c *Client) ClearRuntime(ctx context.Context) (r director.Result, err error) {
	return r, c.do(ctx, http.MethodPost, pathClear, struct{}{}, &r)
}

// Export asks for [director.Director.Export].
func (c *Client) Export(ctx context.Context, runtimeOnly bool) (text string, err error) {
	return text, c.do(ctx, http.MethodPost, pathExport, runtimeOnly, &text)
}

func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	bound := time.AfterFunc(c.patience, func() { stop(errSilent) })
	defer bound.Stop()
	working := httptrace.WithClientTrace(waiting, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { bound.Reset(c.patience); return nil },
	})
	req, err := http.NewRequestWithContext(working, method, "http://lvx"+path, r)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if context.Cause(waiting) == errSilent {
			return fmt.Errorf("the daemon on %s has not answered for %v: it hangs, or is busy (see its log; the packet path does not need it)", c.socket, c.patience)
		}
		return c.explain(err)
	}
	defer res.Body.Close()
	if read, ok := answer.(func(io.Reader) error); ok && res.StatusCode < 300 {
		bound.Stop() // packets come when they come
		return read(res.Body)
	}
	rest := &steadyReader{from: res.Body, left: c.longest, heard: func() { bound.Reset(c.patience) }}
	bound.Reset(c.patience) // it answers: a long list may take its time, while it goes on
	if res.StatusCode >= 300 {
		return c.refusal(res.Status, res.StatusCode, rest)
	}
	if err := readAnswer(rest, answer); context.Cause(waiting) == errSilent {
		return fmt.Errorf("the daemon on %s has stopped for %v in the middle of its answer: it hangs (see its log; the packet path does not need it)", c.socket, c.patience)
	} else if err != nil {
		return fmt.Errorf("answer of the daemon: %w", err)
	}
	return nil
}

// explain says what to do about a socket that cannot be used.
func (c *Client) explain(err error) error {
	var op *url.Error
	if errors.As(err, &op) {
		err = op.Err // without the made-up URL
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: no socket %s (start lvx run, or name its socket with --socket)", ErrNoDaemon, c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody answers on %s (start lvx run)", ErrNoDaemon, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("socket %s: permission denied (run it as root)", c.socket)
	}
	return err
}

// PID is the process that answers on the socket (SO_PEERCRED of unix(7): who
// listens).
func (c *Client) PID(ctx context.Context) (int, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return 0, c.explain(err)
	}
	defer conn.Close()
	cred, err := peer(conn)
	if err != nil {
		return 0, fmt.Errorf("admin socket: %w", err)
	}
	return int(cred.Pid), nil
}
