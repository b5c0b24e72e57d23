package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Options are what a [Server] works with.
type Options struct {
	Director Director
	Socket   string                                                            // path of the unix socket
	Listen   string                                                            // address of the TCP listener; "" = none
	Upgrade  func(ctx context.Context, binary string) (director.Result, error) // nil = there is no such command
	Examine  func(ctx context.Context) error                                   // looks anew for what the doctor finds; nil = there is no such command
	Ready    <-chan struct{}                                                   // nothing is opened before; nil = at once
	Hosts    []string                                                          // names that the page may be asked by (see public)
	Sync     Sync                                                              // nil = connections are not shared
	Log      *slog.Logger
	Warnings *warnings.Registry // nil = the log alone hears of what is wrong

	OmitRealMetrics bool // no series for each real: there may be too many
}

// Server answers on the socket and on the TCP listener.
type Server struct {
	opt Options
	log *slog.Logger
	up  chan struct{}

	warnings *warnings.Registry

	listenPause time.Duration
	tracing     chan struct{} // holds one while somebody watches packets
}

// NewServer makes a server; nothing happens until Run.
func NewServer(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Warnings == nil {
		opt.Warnings = warnings.New(opt.Log)
	}
	return &Server{warnings: opt.Warnings, opt: opt, log: opt.Log.With("component", "admin"), up: make(chan struct{}), listenPause: listenPause, tracing: make(chan struct{}, 1)}
}

// Up is closed once the server can be asked.
func (s *Server) Up() <-chan struct{} { return s.up }

// Run answers until ctx ends. It waits for Ready first.
func (s *Server) Run(ctx context.Context) error {
	if s.opt.Ready != nil {
		select {
		case <-s.opt.Ready:
		case <-ctx.Done():
			return nil
		}
	}
	sock, err := listenUnix(s.opt.Socket)
	if err != nil {
		return err
	}
	defer os.Remove(s.opt.Socket) // closing does it, too, but not after an error
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx, s.server(ctx, s.api()), sock) })
	if s.opt.Listen != "" {
		tcp, err := net.Listen("tcp", s.opt.Listen)
		g.Go(func() error { return s.servePublic(ctx, tcp, err) })
	}
	close(s.up)
	return g.Wait()
}

// listenPause is how long the TCP listener waits for an address that is taken
// or not there.
const listenPause = 5 * time.Second

// servePublic answers on the TCP listener. Nothing that is served depends on
// it: as long as it cannot listen it says so, once, and tries again.
func (s *Server) servePublic(ctx context.Context, tcp net.Listener, err error) error {
	for ; ; tcp, err = net.Listen("tcp", s.opt.Listen) {
		if err == nil {
			s.warnings.End("not-listening", "admin.listen")
			return s.public(ctx, tcp)
		}
		s.warnings.Put(warnings.Warning{
			Kind: "not-listening", Subject: "admin.listen", Note: true,
			Text: "admin.listen: no metrics, no status page, will be retried: " + err.Error(),
			Cure: "free the address, or change admin.listen",
		})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.listenPause):
		}
	}
}

// server is an HTTP server with the bounds that both listeners have.
func (s *Server) server(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return withStop(ctx) },
		ConnContext:       withPeer,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) serve(ctx context.Context, srv *http.Server, l net.Listener) error {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("admin: %w", err)
}

// api is what the unix socket answers.
func (s *Server) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, r *http.Request) {
		st, err := s.opt.Director.Status(r.Context())
		s.answer(w, st, err)
	})
	mux.HandleFunc("GET "+pathLosses, func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.opt.Director.Losses(), nil) })
	mux.HandleFunc("GET "+pathList, s.list)
	mux.HandleFunc("GET "+pathExplain, s.explain)
	mux.HandleFunc("GET "+pathTrace, s.trace)
	mux.HandleFunc("GET "+pathHistory, s.history)
	mux.Handle("GET "+pathMetrics, s.metrics())
	mux.Handle("POST "+pathDiff, change(s, maxConfig, func(ctx context.Context, q diffRequest) ([]string, error) {
		return s.opt.Director.Diff(ctx, q.Text)
	}))
	mux.Handle("POST "+pathReload, change(s, maxBody, func(ctx context.Context, _ struct{}) (director.Result, error) {
		return s.opt.Director.Reload(ctx)
	}))
	mux.Handle("POST "+pathWeight, change(s, maxBody, func(ctx context.Context, q weightRequest) (director.Result, error) {
		return s.opt.Director.SetWeight(ctx, q.Service, q.Real, q.Weight)
	}))
	mux.Handle("POST "+pathDrain, change(s, maxBody, func(ctx context.Context, q drainRequest) (director.Result, error) {
		return s.opt.Director.Drain(ctx, q.Service, q.Real, q.DrainOptions)
	}))
	mux.Handle("POST "+pathDrainDirector, change(s, maxBody, func(ctx context.Context, q drainDirectorRequest) (director.Result, error) {
		return s.opt.Director.DrainDirector(ctx, q.Undo)
	}))
	if s.opt.Upgrade != nil {
		mux.Handle("POST "+pathUpgrade, changeSlowly(s, workingPause, func(ctx context.Context, q upgradeRequest) (director.Result, error) {
			return s.opt.Upgrade(ctx, q.Binary)
		}))
	}
	if s.opt.Examine != nil {
		mux.Handle("POST "+pathExamine, changeSlowly(s, workingPause, func(ctx context.Context, _ struct{}) (struct{}, error) {
			return struct{}{}, s.opt.Examine(ctx)
		}))
	}
	mux.Handle("POST "+pathSyncImport, change(s, maxEdits, s.importConnections))
	mux.Handle("POST "+pathSyncPush, change(s, maxBody, s.pushConnections))
	mux.Handle("POST "+pathEdit, change(s, maxEdits, s.opt.Director.Edit))
	mux.Handle("POST "+pathExport, change(s, maxBody, s.opt.Director.Export)) // root's: the file may hold secrets
	mux.Handle("POST "+pathClear, change(s, maxBody, func(ctx context.Context, _ struct{}) (director.Result, error) {
		return s.opt.Director.ClearRuntime(ctx)
	}))
	return mux
}

// Bounds of a request's body, in bytes.
const (
	maxBody   = 64 << 10
	maxEdits  = 64 << 20 // a table's worth of ipvsadm's commands
	maxConfig = 24 << 20 // a configuration of 16 MiB, in base64
)

// history answers with what happened: all of it, or as far as since, kind and
// subject say.
func (s *Server) history(w http.ResponseWriter, r *http.Request) {
	f := history.Filter{Kind: history.Kind(r.FormValue("kind")), Subject: r.FormValue("subject")}
	if since := r.FormValue("since"); since != "" {
		at, err := time.Parse(time.RFC3339Nano, since)
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("since %q: not a time (RFC 3339)", since))
			return
		}
		f.Since = at
	}
	s.answer(w, s.opt.Director.History(f), nil)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	want := director.Want{SinceZeroed: true}
	if n := r.FormValue("connections"); n != "" {
		limit, err := strconv.Atoi(n)
		if err != nil || limit < 0 {
			fail(w, http.StatusBadRequest, fmt.Errorf("connections %q: not a number (0 = all)", n))
			return
		}
		want.Connections, want.Limit = true, limit
	}
	l, err := s.opt.Director.List(r.Context(), want)
	s.answer(w, l, err)
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	p, err := parsePacket(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	e, err := s.opt.Director.Explain(r.Context(), p)
	s.answer(w, e, err)
}

func (s *Server) answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, statusCode(err), err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answer not sent", "err", err)
	}
}

func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(problem{err.Error()}) // nobody is left to be told
}
