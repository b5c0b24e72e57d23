package failover

import (
	"fmt"
	"testing"
	"time"
)

// A master that was stopped while no other one was there leaves its VIPs for its next
// start, for stop_grace. If another one came meanwhile, that one is the master: the next
// start says nothing beside it.
func TestStartBehindAStopHearsWhoIsMaster(t *testing.T) {
	t.Parallel()
	p := &pair{Segment: newSegment(t), setting: v3tenth, t: t, program: LVX{Self: self, Body: "services: []\n"}}
	p.better.NoPreempt = true
	p.a = p.start("a", p.better)
	p.await("a has the VIP", func() error { return p.Alone("a", "b", p.vip()) })
	p.stop(p.a)
	p.a = nil
	p.probe(p.vip())
	p.b = p.start("b", p.worse)
	for _, host := range []string{"a", "b"} {
		p.await(host+" has the VIP", func() error {
			if ok, err := p.Has(host, p.vip()); err != nil || !ok {
				return fmt.Errorf("it has not: %v", err)
			}
			return nil
		})
	}
	begin := time.Now()
	p.a = p.start("a", p.better)
	must(t, p.a.WaitOutput(t.Context(), "BACKUP"))
	p.await("b alone serves", func() error { return p.Alone("b", "a", p.vip()) })
	if r := p.measure(begin, 0); len(p.adverts("a", begin)) > 0 {
		t.Errorf("a sent %d adverts beside the master; %s", len(p.adverts("a", begin)), r)
	}
}
