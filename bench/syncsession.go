package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// director is one of two with the same services.
type director struct {
	connsync.Table
	at netip.Addr
}

// mesh keeps a session with the other director, over loopback.
func (d director) mesh(peer netip.Addr, port uint16, changed func()) (*connsync.Mesh, error) {
	return connsync.NewMesh(connsync.Options{
		Local: []netip.Addr{d.at}, Peers: []netip.Addr{peer}, Port: port, Keys: []connsync.Key{{1}}, Table: d.Table,
		Log: slog.New(slog.DiscardHandler), Changed: changed,
	})
}

// session runs the sessions of two directors until stop is called. The second one
// waits to be called; inSync is closed when the first has everything of it.
type session struct {
	first, second *connsync.Mesh
	inSync        chan struct{}
	cancel        context.CancelFunc
	running       sync.WaitGroup
}

// The addresses of the two on loopback.
const firstAddr, secondAddr = "127.0.0.31", "127.0.0.32"

// newSession begins one outside of the namespace that the calling thread may be
// in: goroutines of its own are.
func newSession(ctx context.Context, first, second connsync.Table) (s *session, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s, err = beginSession(ctx, first, second)
	}()
	<-done
	return s, err
}

func beginSession(ctx context.Context, first, second connsync.Table) (*session, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	a, b := director{first, netip.MustParseAddr(firstAddr)}, director{second, netip.MustParseAddr(secondAddr)}
	s := &session{inSync: make(chan struct{})}
	isInSync := sync.OnceFunc(func() { close(s.inSync) })
	if s.second, err = b.mesh(a.at, port, func() {}); err != nil {
		return nil, err
	}
	if s.first, err = a.mesh(b.at, port, func() {
		if s.first.InSync() {
			isInSync()
		}
	}); err != nil {
		return nil, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.running.Go(func() { _ = s.second.Run(ctx) })
	if err := awaitListener(ctx, netip.AddrPortFrom(b.at, port)); err != nil {
		s.stop()
		return nil, err
	}
	s.running.Go(func() { _ = s.first.Run(ctx) })
	return s, nil
}

// freePort is a port of loopback that is free.
func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port(), nil
}

// awaitListener waits until somebody listens.
func awaitListener(ctx context.Context, at netip.AddrPort) error {
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", at.String())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) stop() {
	s.cancel()
	s.running.Wait()
}
