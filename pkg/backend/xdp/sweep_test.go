package xdp

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// expiryShows is how soon an expired connection is gone from listings, and
// from the counts that lc, wlc, sed and nq choose by.
const expiryShows = 10 * time.Second

// sweeping runs the daemon's sweeper for so long, by a clock of its own.
func (h *harness) sweeping(t *testing.T, d time.Duration, then func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go h.runSweeper(ctx)
		time.Sleep(d)
		synctest.Wait()
		then()
	})
}

// connections is how many the counts know of.
func (h *harness) connections() (n int) {
	h.t.Helper()
	st, err := h.Stats()
	must(h.t, err)
	for _, s := range st.Services {
		for _, r := range s.Reals {
			n += int(r.Active + r.Inactive)
		}
	}
	return n
}

// ipvs-facts/08b section 7: the kernel's expiry is up to 13 s late. The sweeper
// comes round in time in tables of every size, from the smallest that the
// configuration allows to the largest.
func TestExpiryShowsInTime(t *testing.T) {
	const smallest, byDefault, largest = 64, 1_000_000, 16_777_216
	for _, size := range []int{smallest, 1001, byDefault, largest} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			h := newStill(t, size, 64)
			h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
			b := h.barrage(t)
			b.send(t, "S", min(size, 100_000), 1) // all over the table
			opened := h.connections()
			if opened < min(size, 100_000)*9/10 {
				t.Fatalf("%d connections opened", opened)
			}
			// Whatever the sweeper is at when they expire.
			h.sweeping(t, 3500*time.Millisecond, func() {
				if n := h.connections(); n != opened {
					t.Errorf("%d of %d connections are left, and none has expired", n, opened)
				}
				h.dp.Settings.Clock += uint64(ticks(synRecvTimeout)) + 1
				time.Sleep(expiryShows)
				synctest.Wait()
				if n := h.connections(); n != 0 {
					t.Errorf("%d of %d connections show %s after they expired", n, opened, expiryShows)
				}
			})
		})
	}
}

// A real whose connections have expired is the least loaded one again.
func TestExpiryShowsToSchedulers(t *testing.T) {
	h := newStill(t, 1_000_000, 64)
	for _, s := range []lb.Scheduler{lb.LC, lb.WLC, lb.SED, lb.NQ} {
		t.Run(string(s), func(t *testing.T) {
			h.reset(t)
			svc := webService(2)
			svc.Scheduler = s
			svc.Reals[1].Weight = 0
			h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{svc}})
			open := func(port int) netip.Addr {
				return h.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), uint16(port)), Dst: web}).Real
			}
			for port := range 40 {
				open(1000 + port) // all to the first
			}
			h.dp.Settings.Clock += uint64(ticks(synRecvTimeout)) - 3
			svc.Reals[1].Weight = 1
			h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{svc}})
			for port := range 5 {
				if to := open(2000 + port); to != realN(2) {
					t.Fatalf("connection %d to %s, which has 40", port, to)
				}
			}
			h.dp.Settings.Clock += 4
			h.sweeping(t, expiryShows, func() {
				if to := open(3000); to != realN(1) {
					t.Errorf("a connection to %s, which has 5, while the other's 40 have expired", to)
				}
			})
		})
	}
}

// A connection that was opened where the pass under way has been already is
// not seen by it, nor was it by the one before: its real is not forgotten for
// all that, and its VIP's number not given away.
func TestSweeperForgetsNoYoungConnection(t *testing.T) {
	h := newStill(t, 4096, 64)
	conf := lb.State{Services: []lb.Service{webService(1)}}
	h.apply(conf)
	h.Sweep()
	h.Sweep()
	before, _ := h.vip(vip)

	h.sweepPart(h.flowTables()[0].sets() - 1) // all but the last set
	if to := h.tcp("S"); to != realN(1) {
		t.Fatalf("a connection to %s", to)
	}
	h.apply(lb.State{})
	h.Sweep() // the rest of the pass

	other := webService(3)
	other.Name, other.Reals = "other", other.Reals[1:]
	other.Listeners = []lb.Listener{{Addr: netip.MustParseAddr("10.0.0.200"), Proto: lb.TCP, First: 80, Last: 80}}
	h.apply(lb.State{Services: []lb.Service{other}})
	if got, ok := h.vip(other.Listeners[0].Addr); !ok || got.TCP == before.TCP {
		t.Errorf("another VIP (known: %v) has number %d while a connection has it", ok, got.TCP)
	}
	conns, err := h.Connections(0)
	must(t, err)
	if len(conns) != 1 || conns[0].Real.Addr() != realN(1) || conns[0].Virtual != web {
		t.Errorf("connections: %+v, want the one to %s", conns, realN(1))
	}

	conf.Services = append(conf.Services, other)
	h.apply(conf)
	if to := h.tcp("A"); to != realN(1) {
		t.Errorf("the connection goes on to %s", to)
	}
}

// What nothing refers to is free again in the end: the next real of another
// service gets its place, the next VIP its number.
func TestSweeperForgetsInTheEnd(t *testing.T) {
	h := newStill(t, 4096, 64)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	before, _ := h.vip(vip)
	h.apply(lb.State{ExpireNodestConn: true})
	for range idlePasses {
		h.Sweep()
	}
	other := webService(1)
	other.Name = "other"
	other.Listeners = []lb.Listener{{Addr: netip.MustParseAddr("10.0.0.200"), Proto: lb.TCP, First: 80, Last: 80}}
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{other}})
	if got, _ := h.vip(other.Listeners[0].Addr); got.TCP != before.TCP && got.TCP != before.UDP {
		t.Errorf("number %d, want one of %d and %d", got.TCP, before.TCP, before.UDP)
	}
	if h.slots.next != 1 {
		t.Errorf("%d places of reals were ever used, want 1", h.slots.next)
	}
}
