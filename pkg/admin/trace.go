package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// maxKeep is how much of a frame a trace may ask for.
const maxKeep = 2048

// traceWrite is how long a listener may take to read a packet.
const traceWrite = 5 * time.Second

// lostPause is how long a trace waits for a packet before it tells how many were
// not shown.
const lostPause = time.Second

// traceEnd is how long a listener waits for the end of another one: what that one has
// put into the packet path is taken out once the server has noticed that it is gone.
const traceEnd = 2 * time.Second

// traceLine is a line of a trace: a packet, or, without one, how many are not
// shown; the first says that the trace has begun.
type traceLine struct {
	Packet *lb.TracedPacket `json:"packet,omitempty"`
	Lost   uint64           `json:"lost"` // packets so far that are not shown
}

// stopKey holds the channel that is closed when the server is to stop.
type stopKey struct{}

// withStop is the base of requests: it tells those that have no end of their
// own when the server is to stop.
func withStop(ctx context.Context) context.Context {
	return context.WithValue(context.Background(), stopKey{}, ctx.Done())
}

// trace answers with a line for each packet until the listener goes.
func (s *Server) trace(w http.ResponseWriter, r *http.Request) {
	if !byRoot(r.Context()) {
		fail(w, http.StatusForbidden, errors.New("packets are root's to see (run it as root)"))
		return
	}
	f, err := lb.ParseTraceFilter(strings.Fields(r.FormValue("filter")))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	keep, err := strconv.Atoi(r.FormValue("keep"))
	if err != nil || keep < 0 || keep > maxKeep {
		fail(w, http.StatusBadRequest, fmt.Errorf("keep %q: not 0 to %d", r.FormValue("keep"), maxKeep))
		return
	}
	select {
	case s.tracing <- struct{}{}:
		defer func() { <-s.tracing }()
	case <-time.After(traceEnd): // the data path says why not
	case <-r.Context().Done():
		return
	}
	t, err := s.opt.Director.Trace(r.Context(), f, keep)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	defer func() {
		if err := t.Close(); err != nil {
			s.log.Error("end of a trace", "err", err)
		}
	}()
	s.streamTrace(w, r, t)
}

func (s *Server) streamTrace(w http.ResponseWriter, r *http.Request, t lb.Trace) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if stop, ok := r.Context().Value(stopKey{}).(<-chan struct{}); ok {
		go func() {
			select {
			case <-stop:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Time{}) // a trace may take days
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	send := func(line traceLine) error {
		_ = conn.SetWriteDeadline(time.Now().Add(traceWrite))
		if err := enc.Encode(line); err != nil {
			return err
		}
		return conn.Flush()
	}
	announced := uint64(0) // of packets that are not shown
	err := send(traceLine{})
	for err == nil {
		err = sendNext(ctx, t, send, &announced)
	}
}

// sendNext sends the next packet, or, if none comes, how many were lost since
// that was told.
func sendNext(ctx context.Context, t lb.Trace, send func(traceLine) error, announced *uint64) error {
	soon, cancel := context.WithTimeout(ctx, lostPause)
	defer cancel()
	p, err := t.Next(soon)
	line := traceLine{Lost: t.Lost()}
	switch {
	case err == nil:
		line.Packet = &p
	case ctx.Err() != nil || soon.Err() == nil:
		return err
	case line.Lost == *announced:
		return nil
	}
	*announced = line.Lost
	return send(line)
}

// Trace calls see with each packet that the filter's words want, with at most
// keep bytes of its frames, until see returns an error or ctx ends. lost is how
// many packets were not shown because see took too long. started is called when
// packets begin to be watched; it may be nil.
func (c *Client) Trace(ctx context.Context, words []string, keep int, started func(), see func(lb.TracedPacket) error) (lost uint64, err error) {
	q := url.Values{"filter": {strings.Join(words, " ")}, "keep": {strconv.Itoa(keep)}}
	read := func(body io.Reader) error {
		for dec := json.NewDecoder(body); ; {
			var line traceLine
			if err := dec.Decode(&line); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("the daemon has ended the trace: %w", err)
			}
			lost = line.Lost
			switch {
			case line.Packet != nil:
				if err := see(*line.Packet); err != nil {
					return err
				}
			case started != nil:
				started()
				started = nil
			}
		}
	}
	err = c.do(ctx, http.MethodGet, pathTrace+"?"+q.Encode(), nil, read)
	return lost, err
}
