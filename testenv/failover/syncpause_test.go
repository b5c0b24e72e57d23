package failover

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// A master whose process stood still until another one had taken over knows nothing
// of what the other one has opened meanwhile, and whose session with it has ended: it
// takes back once it has been told.
func TestSyncedConnectionsSurviveAPause(t *testing.T) {
	t.Parallel()
	p := newRealPair(t, v3tenth, syncedBody(t))
	p.awaitSync()
	conns := p.holdAll()
	p.awaitAcknowledged("a")

	must(t, p.a.Signal(syscall.SIGSTOP))
	p.await("b is master", func() error { return p.hasVIP("b") })
	time.Sleep(7 * time.Second) // b has given a up as a peer
	fresh := p.holdAll()
	must(t, p.a.Signal(syscall.SIGCONT))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) && !t.Failed(); {
		p.checkAlive("while it returns", conns)
		p.checkAlive("while it returns, opened meanwhile", fresh)
	}
	p.await("a is master again", func() error { return p.Alone("a", "b", p.vip()) })
	p.settle()
	p.checkAlive("after the return", conns)
	p.checkAlive("after the return, opened meanwhile", fresh)
}

// What a client sends to the new master before that one has been told of the connection
// is not answered with a reset: here of connections that were opened while the old
// master's process stood still, and that it tells of when it gives the VIPs up.
func TestLatestConnectionsAreWaitedFor(t *testing.T) {
	t.Parallel()
	stays := func(i *vrrp.Instance) { i.NoPreempt = true }
	p := newRealPair(t, setting{"the better one stays backup", router(3, 100*ms, 100), router(3, 100*ms, 150, stays)}, syncedBody(t))
	p.awaitSync()
	must(t, p.a.Signal(syscall.SIGSTOP))
	conns := map[string][]held{}
	for range 5 { // by the packet path, whose leases live
		for _, s := range synced {
			conn, who, err := p.connect(s.port)
			must(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			conns[s.name] = append(conns[s.name], held{conn, who})
		}
	}
	p.await("b alone answers", func() error { return p.answers("b") })
	var asking sync.WaitGroup
	for _, s := range synced {
		for _, h := range conns[s.name] {
			asking.Go(func() {
				if n := alive([]held{h}); n != 1 {
					t.Errorf("%s is not with %s any more", s.name, h.who)
				}
			})
		}
	}
	p.await("b has waited with an answer", func() error { return p.hasDropped("b", "moved") })
	must(t, p.a.Signal(syscall.SIGCONT))
	asking.Wait()
}

// hasDropped reports, as an error, that a director has had no packet of a verdict.
func (p *pair) hasDropped(director, verdict string) error {
	out, err := LVX{Self: self}.Run(p.t.Context(), p.Host(director), "metrics", "lvx_packets_total", "--nonzero")
	if err == nil && !strings.Contains(out, fmt.Sprintf("{verdict=%q}", verdict)) {
		err = fmt.Errorf("none: %s", out)
	}
	return err
}
