package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// Bounds of the TCP listener, where anybody may ask: connections that are open
// at a time, and how long one may do nothing, or not read.
const (
	maxConnections = 64
	publicIdle     = 10 * time.Second
	publicWrite    = 20 * time.Second
)

// public answers on a TCP listener until ctx ends: GET and HEAD, and nothing
// that changes or lists clients.
func (s *Server) public(ctx context.Context, l net.Listener) error {
	srv := s.server(ctx, s.publicHandler())
	srv.IdleTimeout, srv.WriteTimeout = publicIdle, publicWrite
	srv.BaseContext = func(net.Listener) context.Context { return ctx } // streams end with ctx
	return s.serve(ctx, srv, netutil.LimitListener(l, maxConnections))
}

func (s *Server) publicHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", s.metrics())
	mux.HandleFunc("/healthz", s.healthz)
	events := &streams{director: s.opt.Director}
	mux.Handle("/{$}", s.byKnownName(http.HandlerFunc(events.servePage)))
	mux.Handle("/events", s.byKnownName(events))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "GET and HEAD only", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

// healthz answers whether the director does: 200 or 503.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := s.opt.Director.Ping(ctx); err != nil {
		http.Error(w, guard.Text(err.Error()), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// byKnownName refuses requests that name a host which is not known to be this
// one: a foreign page could else read h through a name of its own that leads
// here (DNS rebinding).
func (s *Server) byKnownName(h http.Handler) http.Handler {
	names := append(slices.Clone(s.opt.Hosts), "localhost")
	if own, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(own, ".")
		names = append(names, own, short)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isKnownName(r.Host, names) {
			http.Error(w, "unknown host name (admin.hosts has those by which this page may be asked for)", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// isKnownName reports whether a Host header is an address, or one of names.
func isKnownName(host string, names []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.Trim(name, "[]"), ".")
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}
