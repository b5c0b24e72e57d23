package vrrp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/testenv/tb"
)

// withQueue gives f an advert queue and a socket that hears what it sends,
// in a namespace of their own.
func withQueue(t *testing.T, f func(m *advertQueue, v *vrouter, msg advert, heard func() int)) {
	tb.InNamespace(t, func(t *testing.T, index int) {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Error(err)
			return
		}
		c, err := openConnOn("lo", lo.Attrs().Index, false)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.close()
		m, err := newAdvertQueue(func(v *vrouter, err error) { v.warning = err.Error() })
		if err != nil {
			t.Error(err)
			return
		}
		defer m.close()
		local := netip.MustParseAddr("127.0.0.1")
		heard := func() (n int) {
			var buf [2048]byte
			for {
				d, ok := c.receive(buf[:])
				if !ok {
					return n
				}
				if d.ttl == 255 && d.src == local && len(d.payload) >= 12 {
					n++
				}
			}
		}
		f(m, &vrouter{cfg: sample(nil)}, advert{c, local, local, unhex(t, vectors[0].hex)}, heard)
	})
}

// until waits for n messages, generously.
func until(n int, heard func() int) (got int) {
	for range 1000 {
		if got += heard(); got >= n {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return got
}

func TestMetronomePlays(t *testing.T) {
	const every = 100 * time.Millisecond
	withQueue(t, func(m *advertQueue, v *vrouter, msg advert, heard func() int) {
		first := time.Now().Add(every)
		for range 2 { // the second time everything is queued already
			if err := m.fill(v, []advert{msg}, first, every); err != nil {
				t.Error(err)
			}
		}
		if n := heard(); n != 0 {
			t.Errorf("%d messages before the first slot", n)
		}
		if got := until(5, heard); got != 5 {
			t.Errorf("%d messages, want the 5 that are queued", got)
		}
		time.Sleep(2 * every)
		if n := heard(); n != 0 {
			t.Errorf("%d messages more than queued", n)
		}
		m.readCompletions()
		if len(m.inFlight) != 0 || v.warning != "" {
			t.Errorf("%d messages in flight, warning %q", len(m.inFlight), v.warning)
		}
		if !v.queued.dropPast(first, every) || len(v.queued.slots) != 4 {
			t.Errorf("%d slots after the first", len(v.queued.slots))
		}
		if v.queued.dropPast(first.Add(10*every), every) || len(v.queued.slots) != 0 {
			t.Errorf("a long pause counts as a slot that was sent")
		}
	})
}

// The kernel goes on for a master that has just spoken for the first time, also if its
// thread does nothing more: on a busy host the thread may wait for the Go scheduler.
func TestMetronomeFollowsTheFirstAdvert(t *testing.T) {
	withQueue(t, func(m *advertQueue, _ *vrouter, msg advert, heard func() int) {
		cfg := sample(func(i *Instance) { i.Version, i.AuthPass, i.AdvertInterval = 3, "", 50*time.Millisecond })
		cfg.UnicastPeers = []netip.Addr{msg.dst}
		l, v, _ := deaf(t, cfg)
		l.queue, v.conn, v.cond.Self = m, msg.conn, msg.src
		v.m.role = Master
		l.step(v, Ready{}, time.Now())
		if want := 1 + slotsAhead(cfg.AdvertInterval); until(want, heard) != want {
			t.Error("the kernel does not go on behind the first advert")
		}
	})
}

func TestMetronomeTakesBack(t *testing.T) {
	const every = 50 * time.Millisecond
	withQueue(t, func(m *advertQueue, v *vrouter, msg advert, heard func() int) {
		queue := func(first time.Time) {
			t.Helper()
			if err := m.fill(v, []advert{msg}, first, every); err != nil {
				t.Error(err)
			}
		}
		queue(time.Now().Add(time.Hour))
		queue(time.Now().Add(2 * time.Hour)) // another first slot: the old one is void
		if len(v.queued.slots) != 10 {
			t.Errorf("%d slots queued", len(v.queued.slots))
		}
		msg.packet = unhex(t, vectors[3].hex)
		queue(time.Now().Add(every))
		if until(1, heard) < 1 {
			t.Error("nothing after the message changed")
		}
		if err := m.cancelQueued(&v.queued); err != nil {
			t.Error(err)
		}
		heard()
		time.Sleep(4 * every)
		if n := heard(); n != 0 {
			t.Errorf("%d messages after they were taken back", n)
		}
		m.readCompletions()
		if len(m.inFlight) != 0 {
			t.Errorf("%d messages in flight", len(m.inFlight))
		}
	})
}

func TestMetronomeTellsOfFailure(t *testing.T) {
	withQueue(t, func(m *advertQueue, v *vrouter, msg advert, heard func() int) {
		msg.src = addrA // nobody's, in here
		if err := m.fill(v, []advert{msg}, time.Now(), time.Second); err != nil {
			t.Error(err)
		}
		for range 1000 {
			if m.readCompletions(); v.warning != "" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if v.warning == "" {
			t.Error("no word of a message that could not be sent")
		}
	})
}
