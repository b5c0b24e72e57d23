// Package web is what a real server of the test network serves: an HTTP
// server that says its name, remembers who asked, and moves as many bytes as
// one likes.
//
// It does not know about namespaces: give it a listener.
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Access is one request that was answered.
type Access struct {
	At     time.Time // when the answer was complete
	Client netip.AddrPort
	Local  netip.AddrPort // the address that the client asked, a VIP for example
	Method string
	Path   string
	Status int
	Bytes  int64 // of the answer's body; for an upload those of the request's
}

// Server answers on any number of listeners:
//
//	GET /          the server's name and a line feed
//	GET /client    the client's address and a line feed
//	GET /bytes/N   N bytes
//	GET /health    200, or what SetHealth said
//	PUT, POST      reads the body and answers with its length and a line feed
type Server struct {
	name string
	cert tls.Certificate
	http *http.Server

	mu     sync.Mutex
	health int
	log    []Access
}

// New makes a server with a name.
func New(name string) (*Server, error) {
	cert, err := selfSigned(name)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	s := &Server{name: name, cert: cert, health: http.StatusOK}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // one connection, one request at a time: what a test can count
	s.http = &http.Server{
		Handler:           s.mux(),
		Protocols:         protocols,
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, localKey{}, c.LocalAddr())
		},
	}
	return s, nil
}

type localKey struct{}

// Name is the server's name.
func (s *Server) Name() string { return s.name }

// Serve answers HTTP on l until Close; it returns nil then.
func (s *Server) Serve(l net.Listener) error {
	return ended(s.http.Serve(l))
}

// ServeTLS answers HTTPS on l until Close. The certificate is self-signed and
// names the server; see [Server.Certificate].
func (s *Server) ServeTLS(l net.Listener) error {
	return ended(s.http.ServeTLS(l, "", ""))
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close closes all listeners and connections.
func (s *Server) Close() error { return s.http.Close() }

// SetHealth sets the status that /health answers with.
func (s *Server) SetHealth(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = status
}

// Log returns the requests that were answered, oldest first.
func (s *Server) Log() []Access {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Access(nil), s.log...)
}

func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, s.name) })
	mux.HandleFunc("GET /client", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, client(r).Addr())
	})
	mux.HandleFunc("GET /bytes/{n}", bytesN)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		status := s.health
		s.mu.Unlock()
		http.Error(w, http.StatusText(status), status)
	})
	mux.HandleFunc("GET /", http.NotFound)
	mux.HandleFunc("PUT /", discard)
	mux.HandleFunc("POST /", discard)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &counter{ResponseWriter: w, status: http.StatusOK}
		body := &readCounter{ReadCloser: r.Body}
		r.Body = body
		mux.ServeHTTP(c, r)
		s.note(r, c, body)
	})
}

func (s *Server) note(r *http.Request, c *counter, body *readCounter) {
	a := Access{
		At: time.Now(), Client: client(r), Method: r.Method, Path: r.URL.Path,
		Status: c.status, Bytes: c.n,
	}
	if body.n > 0 {
		a.Bytes = body.n
	}
	if local, ok := r.Context().Value(localKey{}).(net.Addr); ok {
		a.Local, _ = netip.ParseAddrPort(local.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, a)
}

// client is the address that the request came from.
func client(r *http.Request) netip.AddrPort {
	a, _ := netip.ParseAddrPort(r.RemoteAddr) // net/http wrote it
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func bytesN(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	if err != nil || n < 0 {
		http.Error(w, "bytes: want a number, as in /bytes/1000", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	block := make([]byte, 64<<10)
	for n > 0 {
		k := min(n, int64(len(block)))
		if _, err := w.Write(block[:k]); err != nil {
			return // the client has gone
		}
		n -= k
	}
}

func discard(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, "upload: "+err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintln(w, n)
}

// counter remembers the status and the length of an answer.
type counter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// readCounter counts the bytes of an upload.
type readCounter struct {
	io.ReadCloser
	n int64
}

func (c *readCounter) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	return n, err
}
