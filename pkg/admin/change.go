package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
)

// change handles a request that is root's: with a bounded JSON body that has
// no unknown keys. It answers what do returns.
func change[Q, A any](s *Server, limit int64, do func(context.Context, Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q, ok := readChange[Q](w, r, limit); ok {
			a, err := do(director.WithUID(r.Context(), 0), q)
			s.answer(w, a, err)
		}
	})
}

// workingPause is how often a client hears that its request is worked at.
const workingPause = 5 * time.Second

// changeSlowly is [change] for what takes its time and has bounds of its own: the
// client, who would take a silent daemon for one that hangs, hears of it every now and then.
func changeSlowly[Q, A any](s *Server, pause time.Duration, do func(context.Context, Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, ok := readChange[Q](w, r, maxBody)
		if !ok {
			return
		}
		done := make(chan func(), 1)
		go func() {
			a, err := do(director.WithUID(r.Context(), 0), q)
			done <- func() { s.answer(w, a, err) }
		}()
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case answer := <-done:
				answer()
				return
			case <-tick.C:
				w.WriteHeader(http.StatusProcessing)
			}
		}
	})
}

// readChange reads what is asked. If that cannot be, it has answered.
func readChange[Q any](w http.ResponseWriter, r *http.Request, limit int64) (q Q, ok bool) {
	if !byRoot(r.Context()) {
		fail(w, http.StatusForbidden, errors.New("changes are root's (run it as root)"))
		return q, false
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("request body: %w", err))
		return q, false
	}
	return q, true
}
