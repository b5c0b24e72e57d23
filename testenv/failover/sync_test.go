package failover

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// synced are services whose choice no other director can repeat: what survives
// does so because it was told.
var synced = []struct {
	name, scheduler string
	port            int
	persistent      bool
}{
	{"rr", "rr", 80, false},
	{"wrr", "wrr", 81, false},
	{"wlc", "wlc", 82, false},
	{"persistent", "rr", 83, true},
}

func syncedBody(t *testing.T) string {
	t.Helper()
	return syncedBodyOf(t, VIP, Addr)
}

// syncedBodyOf is the body of a pair whose VIP and hosts have these addresses.
func syncedBodyOf(t *testing.T, vip netip.Addr, addr func(host string) netip.Addr) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "sync.key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600))
	var b strings.Builder
	fmt.Fprintf(&b, "sync: {peers: [%q, %q], key_file: %s}\nservices:\n", addr("a"), addr("b"), key)
	for _, s := range synced {
		fmt.Fprintf(&b, "  - name: %s\n    listen: [%q]\n    scheduler: %s\n", s.name, netip.AddrPortFrom(vip, uint16(s.port)).String()+"/tcp", s.scheduler)
		if s.persistent {
			b.WriteString("    persistence: {timeout: 300s}\n")
		}
		fmt.Fprintf(&b, "    check: {type: tcp, port: %d, interval: 1s, timeout: 1s}\n", s.port)
		fmt.Fprintf(&b, "    reals:\n      - {address: %q, weight: 1}\n      - {address: %q, weight: 2}\n", addr("r1"), addr("r2"))
	}
	return b.String()
}

// allSyncStatus is what a director says of connection sync.
func (p *pair) allSyncStatus(host string) (st connsync.Status, err error) {
	out, err := LVX{Self: self}.Run(p.t.Context(), p.Host(host), "sync", "status", "--json")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

// syncStatus is what a director says of its peer.
func (p *pair) syncStatus(host string) (connsync.PeerStatus, error) {
	st, err := p.allSyncStatus(host)
	if err != nil {
		return connsync.PeerStatus{}, err
	}
	if len(st.Peers) != 1 {
		return connsync.PeerStatus{}, fmt.Errorf("%d peers: %+v", len(st.Peers), st)
	}
	return st.Peers[0], nil
}

// wireStatus is what a director says of the kernel's wire.
func (p *pair) wireStatus(host string) connsync.WireStatus {
	p.t.Helper()
	st, err := p.allSyncStatus(host)
	must(p.t, err)
	if st.Wire == nil {
		p.t.Fatalf("%s has no wire", host)
	}
	return *st.Wire
}

// awaitSync waits until both directors have the other's table.
func (p *pair) awaitSync() {
	p.t.Helper()
	for _, host := range []string{"a", "b"} {
		p.await(host+" is in step", func() error {
			st, err := p.syncStatus(host)
			if err == nil && !st.IsInSync {
				err = fmt.Errorf("%+v", st)
			}
			return err
		})
	}
}

// awaitAcknowledged waits until b has what a holds now.
func (p *pair) awaitAcknowledged(from string) {
	p.t.Helper()
	time.Sleep(300 * ms) // as old as a connection has to be
	st, err := p.syncStatus(from)
	must(p.t, err)
	p.t.Logf("%s: lag %s, %d sent, %d received, %d rejected", from, st.Lag, st.Sent, st.Received, st.Rejected)
}

// checkAlive counts the connections of every service that still reach their
// real.
func (p *pair) checkAlive(what string, conns map[string][]held) {
	p.t.Helper()
	for _, s := range synced {
		if n := alive(conns[s.name]); n != connections {
			p.t.Errorf("%s: %d of %d connections of %s live", what, n, connections, s.name)
		}
	}
}

func (p *pair) holdAll() map[string][]held {
	p.t.Helper()
	conns := map[string][]held{}
	for _, s := range synced {
		conns[s.name] = p.hold(s.port)
	}
	return conns
}

// A pair that shares connections loses none that is older than 300 ms, whatever
// the scheduler: neither when the master is killed, nor when it comes back and
// takes over, nor when it is stopped. Without sloppy_tcp a director that was
// not told would have a connection reset. This is so over IPv6, of the clients
// and of the session; TestSyncedPairUnderLoad is over IPv4.
func TestSyncedConnectionsSurvive(t *testing.T) {
	t.Parallel()
	p := newRealPair(t, v3tenth6, syncedBodyOf(t, v3tenth6.vip(), addr6))
	p.awaitSync()
	conns := p.holdAll()
	p.awaitAcknowledged("a")

	p.a.Kill()
	p.await("b is master", func() error { return p.hasVIP("b") })
	time.Sleep(time.Second) // a is silent by now
	p.checkAlive("after kill -9", conns)

	fresh := p.holdAll() // that a has never seen
	p.awaitAcknowledged("b")
	// Of the whole host: nothing of its tables is left.
	_, err := p.Host("a").Run(t.Context(), self, "purge", "-c", filepath.Join(p.Host("a").Dir(), "lvx.yaml"))
	must(t, err)
	p.a = p.start("a", p.better)
	p.await("a is master again", func() error { return p.Alone("a", "b", p.vip()) })
	p.settle()
	p.checkAlive("after the return", conns)
	p.checkAlive("after the return, opened meanwhile", fresh)

	p.awaitSync()
	last := p.holdAll() // the other one is told of them before it takes over, however new they are
	must(t, p.a.Stop())
	p.await("b is master", func() error { return p.hasVIP("b") })
	p.checkAlive("after a clean stop", conns)
	p.checkAlive("after a clean stop, opened meanwhile", fresh)
	p.checkAlive("after a clean stop, opened last", last)
}

// hasVIP reports that a host has the VIP.
func (p *pair) hasVIP(host string) error {
	if ok, err := p.Has(host, p.vip()); err != nil || !ok {
		return fmt.Errorf("no VIP on %s: %v", host, err)
	}
	return nil
}
