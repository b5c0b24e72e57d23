package failover

import (
	"syscall"
	"testing"
	"time"
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
