package xdp

import (
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Floods: what spoofed packets cost those who were there before. By default a
// twentieth of the full size, which is ten million packets against 50,000
// connections in a table for 65,536:
//
//	LVX_FLOOD_PACKETS=10000000 go test -v -run 'TestFlood|TestStatedCapacity' ./pkg/backend/xdp
func floodPackets(t *testing.T) int {
	t.Helper()
	s := os.Getenv("LVX_FLOOD_PACKETS")
	if s == "" {
		return 500_000
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// customer is the nth connection: one client each, behind all kinds of ports.
func customer(n int, flags string) lb.Packet {
	from := netip.AddrFrom4([4]byte{172, 16 + byte(n>>16), byte(n >> 8), byte(n)})
	return lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(from, uint16(1024+n)), Dst: web, Flags: flags}
}

// crowd is customers, and the reals that they reached.
type crowd struct {
	*barrage
	size  int
	reals []netip.Addr
}

// open has customers connect, up to the nth, and send their first data.
func (c *crowd) open(t *testing.T, upTo int) {
	t.Helper()
	for n := len(c.reals); n < upTo; n++ {
		to := c.Send(customer(n, "S")).Real
		for _, flags := range []string{"A", "PA"} {
			if got := c.Send(customer(n, flags)).Real; got != to || !to.IsValid() {
				t.Fatalf("customer %d: %s to %s, the SYN to %s", n, flags, got, to)
			}
		}
		c.reals = append(c.reals, to)
	}
}

// stay has every customer send a packet with these flags, from a port that is
// so much higher, and counts those that do not reach their real.
func (c *crowd) stay(flags string, higher uint16) (lost int) {
	for n, to := range c.reals {
		p := customer(n, flags)
		p.Src = netip.AddrPortFrom(p.Src.Addr(), p.Src.Port()+higher)
		if c.Send(p).Real != to {
			lost++
		}
	}
	return lost
}

// flood sends so many packets in volleys, every source first with these flags,
// then with those, and lets the rest of the customers connect half-way.
func (c *crowd) flood(t *testing.T, packets int, flags ...string) {
	t.Helper()
	random := uint64(time.Now().UnixNano())
	t.Logf("random sources from %d", random)
	volley := packets / 40 // in a tick of the clock
	for sent := 0; sent < packets; sent += volley {
		if sent >= packets/2 {
			c.open(t, c.size)
		}
		var next uint64
		for _, f := range flags {
			next = c.send(t, f, volley/len(flags), random)
		}
		random = next
		c.dp.Settings.Clock++
	}
}

// spent is what packets and entries came to since before.
func spent(t *testing.T, h *harness, before lb.Stats) (verdicts, flows, templates map[string]uint64) {
	t.Helper()
	after, err := h.Stats()
	must(t, err)
	verdicts = map[string]uint64{}
	for i, v := range after.Verdicts {
		if n := v.Count - before.Verdicts[i].Count; n > 0 {
			verdicts[v.Name] = n
		}
	}
	less := func(a, b map[string]uint64) map[string]uint64 {
		d := map[string]uint64{}
		for k := range a {
			d[k] = a[k] - b[k]
		}
		return d
	}
	return verdicts, less(after.Flows.Evicted, before.Flows.Evicted), less(after.Template.Evicted, before.Template.Evicted)
}

// Connections that ended while nobody swept the table give their places away, however
// long ago that was: ten hours are more than half a round of the time stamps.
func TestExpiredFlowsOfHalfARound(t *testing.T) {
	const stated = 64
	h := newStill(t, stated, 64)
	for _, idle := range []uint64{2000, 36_000, 60_000} {
		h.reset(t)
		h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
		here := &crowd{barrage: &barrage{harness: h}}
		for n := range 16 * stated { // every place is taken
			for _, flags := range []string{"S", "A", "PA"} {
				h.Send(customer(1000+n, flags))
			}
		}
		h.dp.Settings.Clock += idle
		before, err := h.Stats()
		must(t, err)
		here.open(t, stated)
		_, evicted, _ := spent(t, h, before)
		if lost := here.stay("PA", 0); lost > 0 || evicted["expired"] == 0 || evicted["established"] > 0 {
			t.Errorf("after %d ticks %d of %d connections are lost, and what gave its place away was %v", idle, lost, stated, evicted)
		}
	}
}

// Nobody who is established loses his real to a flood, nor to one that comes
// while he connects; and no SYN is refused, so neither is his.
func TestFlood(t *testing.T) {
	packets := floodPackets(t)
	h := newStill(t, packets/1000*65536/10_000, packets/50)
	for _, c := range []struct {
		name       string
		flags      []string
		persistent time.Duration
	}{
		{"SYN", []string{"S"}, 0},
		{"SYN and ACK", []string{"S", "A"}, 0},
		{"SYN+ACK and ACK", []string{"SA", "A"}, 0},
		{"SYN to a persistent service", []string{"S"}, 2 * time.Hour},
		{"SYN and ACK to a persistent service", []string{"S", "A"}, 2 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.reset(t)
			s := webService(3)
			s.Persistence.Timeout = c.persistent
			h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
			before, err := h.Stats()
			must(t, err)
			who := &crowd{barrage: h.barrage(t), size: packets / 200}
			who.open(t, who.size/2)
			start := time.Now()
			who.flood(t, packets, c.flags...)
			took := time.Since(start)
			verdicts, flows, templates := spent(t, h, before)
			t.Logf("%d packets in %.1f s: %v; flows evicted %v, templates %v", packets, took.Seconds(), verdicts, flows, templates)
			if lost := who.stay("A", 0); lost > 0 {
				t.Errorf("%d of %d connections lost their real", lost, who.size)
			}
			if refused := verdicts["table_busy"]; refused > 0 {
				t.Errorf("%d packets were refused a place", refused)
			}
			if flows["established"] > 0 {
				t.Errorf("%d proven flows evicted", flows["established"])
			}
			if c.persistent == 0 {
				return
			}
			if len(c.flags) == 1 && templates["assured"] > 0 {
				t.Errorf("%d assured templates evicted", templates["assured"])
			}
			if lost := who.stay("S", 7); lost > 0 {
				t.Errorf("new connections of %d of %d clients reached another real", lost, who.size)
			}
		})
	}
}

// The same while everybody is at it at once, on all CPUs: no packet of a
// customer goes astray between the packets of a flood.
func TestFloodBesideTraffic(t *testing.T) {
	packets := floodPackets(t)
	h := newStill(t, packets/100, 1024)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
	who := &crowd{barrage: h.barrage(t)}
	who.open(t, packets/1000)
	before, err := h.Stats()
	must(t, err)
	var flood errgroup.Group
	var running atomic.Int32
	for _, flags := range [][]string{{"S"}, {"S", "A"}} {
		b := h.barrage(t)
		running.Add(1)
		flood.Go(func() error {
			defer running.Add(-1)
			random, batch := uint64(len(flags)), packets/100
			for range 33 { // a third of them, so many times with each flag
				var next uint64
				for _, f := range flags {
					var err error
					if next, err = b.run(f, batch, random); err != nil {
						return err
					}
				}
				random = next
			}
			return nil
		})
	}
	rounds, lost := 0, 0
	for running.Load() > 0 {
		lost += who.stay("PA", 0)
		rounds++
	}
	must(t, flood.Wait())
	verdicts, flows, _ := spent(t, h, before)
	t.Logf("%d rounds of %d customers: %v; flows evicted %v", rounds, len(who.reals), verdicts, flows)
	if lost > 0 || flows["established"] > 0 {
		t.Errorf("%d packets of customers went astray, %d proven flows were evicted", lost, flows["established"])
	}
	// Two CPUs that want one place: one tries again, at worst its client does.
	if refused := verdicts["table_busy"]; refused > uint64(packets/10_000) {
		t.Errorf("%d of %d packets were refused a place", refused, packets)
	}
	all, err := h.Connections(0)
	must(t, err)
	if n := h.connections(); n != len(all) {
		t.Errorf("the reals' counts come to %d connections, the table holds %d", n, len(all))
	}
}

// A table has room for as many connections as its size says: none is refused,
// and next to none loses its place. (A quarter of the places are taken then. A
// new connection finds all eight of its own taken about once in ten million
// times, and the oldest half-open one goes.)
func TestStatedCapacity(t *testing.T) {
	size := floodPackets(t)
	t.Run("IPv4", func(t *testing.T) {
		h := newStill(t, size, 1024)
		h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}})
		fill(t, h.barrage(t), size)
		if bytes := 64 * h.flowTables()[0].sets(); bytes > 64*size {
			t.Errorf("%d bytes for %d connections, want 64 for each", bytes, size)
		}
	})
	t.Run("IPv6", func(t *testing.T) {
		h := openHarness(t, Options{Flows: size, Templates: 1024, StillClock: true, IPv6: true})
		h.dp.Settings.NameKey = [...]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f}
		h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService6(3)}})
		fill(t, h.barrage6(t), size)
		if bytes := 128 * h.flowTables()[1].sets(); bytes > 128*size {
			t.Errorf("%d bytes for %d connections, want 128 for each", bytes, size)
		}
	})
}

// fill opens as many connections as the table is for, and uses them.
func fill(t *testing.T, b *barrage, size int) {
	t.Helper()
	h := b.harness
	h.dp.Settings.Seed = [3]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb}
	before, err := h.Stats()
	must(t, err)
	const volley = 250_000
	for _, flags := range []string{"S", "A", "PA", "A"} {
		random := uint64(1)
		for sent := 0; sent < size; sent += volley {
			random = b.send(t, flags, volley, random)
		}
		h.dp.Settings.Clock++
	}
	verdicts, flows, _ := spent(t, h, before)
	st, err := h.Stats()
	must(t, err)
	t.Logf("%d connections in a table of %d: %v; evicted %v", st.Flows.Used, size, verdicts, flows)
	lost := flows["half_open"] + flows["unproven"] + flows["established"]
	if most := uint64(1 + size/1_000_000); lost > most {
		t.Errorf("%d connections lost their places, want at most %d", lost, most)
	}
	if n := verdicts["forwarded"]; n < 4*(uint64(size)-lost) || verdicts["table_busy"] > 0 {
		t.Errorf("%d packets forwarded, want %d; %d refused a place", n, 4*size, verdicts["table_busy"])
	}
	// A few sources come twice, of 2^45.
	if used := int(st.Flows.Used); used > size || used < size-size/1000 {
		t.Errorf("%d connections in the table, want nearly %d", used, size)
	}
}
