package connsync

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
)

// logLines is a log whose lines are counted.
type logLines struct {
	mu   sync.Mutex
	text string
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(b)
	return len(b), nil
}

func (l *logLines) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text), "\n")
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// A peer that does not know this host hangs up every second, and is logged once, however
// its kernel ends the connection.
func TestPeerThatHangsUpIsLoggedOnce(t *testing.T) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(two, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			hello := make([]byte, 1<<16)
			if n%2 == 0 { // with a reset, since something is left to be read
				hello = hello[:1]
			}
			_, _ = conn.Read(hello)
			_ = conn.Close()
		}
	}()
	log := &logLines{}
	m, err := NewMesh(Options{
		Local: []netip.Addr{one}, Peers: []netip.Addr{two}, Port: netip.MustParseAddrPort(l.Addr().String()).Port(),
		Keys: []Key{keyA}, Table: newMemory(), Log: log.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*redialPause)
	defer cancel()
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if cure := m.Status()[0].Cure; len(log.lines()) != 1 || !strings.Contains(cure, "sync.peers") {
		t.Errorf("%q is the cure of\n%s", cure, log.text)
	}
}

// That the interface of a wire is down is logged when that begins, not with each datagram.
// The wire works again when the interface is up.
func TestInterfaceThatIsDown(t *testing.T) {
	c, err := testenv.New(testenv.Standard(testenv.Shape{}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	log, host := &logLines{}, c.Host("d1")
	w, err := NewWire(WireOptions{Interface: "eth0", SyncID: 7, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	w.SetRole(true, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- host.Do(func() error { return w.Run(ctx) }) }()
	defer func() {
		cancel()
		<-done
	}()
	publish := func(times int) {
		for range times {
			w.Publish(captured[0].want)
			time.Sleep(flushAfter / 4)
		}
	}
	if err := host.SetLink("eth0", false); err != nil {
		t.Fatal(err)
	}
	publish(24)
	if n := len(log.lines()); n > 2 || w.Err() == nil { // a send that failed, and why
		t.Errorf("%d lines, and the fault is %v:\n%s", n, w.Err(), log.text)
	}
	if err := host.SetLink("eth0", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the wire works again", func() bool { publish(1); return w.Err() == nil })
}
