package failover

import (
	"fmt"
	"testing"
	"time"
)

// The port of the master goes dead and comes back: the other one serves
// meanwhile, and the returning one takes the VIP only when its checks have
// answered since, so that no request is refused and no connection is lost.
func TestPortOfTheMasterDown(t *testing.T) {
	t.Parallel()
	const dead = 4 * time.Second // many times what takes a real down
	p := newRealPair(t, v3tenth, fmt.Sprintf(`sloppy_tcp: true
services:
  - name: web
    listen: ["%s:81/tcp"]
    scheduler: mh
    flags: [mh-port]
    check: {type: tcp, port: 81, interval: 300ms, timeout: 300ms, fall: 2, rise: 2}
    reals: [{address: %s}, {address: %s}]
  - name: ready
    listen: ["%[1]s:82/tcp"]
    reals: [{address: %[2]s}, {address: %[3]s}]
`, VIP, Addr("r1"), Addr("r2")))
	owner := func(host string) {
		t.Helper()
		p.await(host+" is master", func() error {
			if ok, err := p.Has(host, VIP); err != nil || !ok {
				return fmt.Errorf("no VIP on %s: %v", host, err)
			}
			return nil
		})
	}
	p.await("the checks have passed", func() error {
		for range 10 {
			conn, _, err := p.connect(81)
			if err != nil {
				return err
			}
			_ = conn.Close()
		}
		return nil
	})
	conns := p.hold(81)
	must(t, p.Unplug("a", true))
	owner("b")
	time.Sleep(dead)
	begin := time.Now()
	visits := p.visit(81)
	must(t, p.Unplug("a", false))
	owner("a")
	took := time.Since(begin)
	p.settle()
	total, lost := visits.stop()
	t.Logf("master again after %s; %d of %d new connections failed: %v", took.Round(ms), len(lost), total, lost)
	if len(lost) > slackLost {
		t.Errorf("%d of %d new connections failed: %v", len(lost), total, lost)
	}
	if n := alive(conns); n != len(conns) {
		t.Errorf("%d of %d connections live", n, len(conns))
	}
}
