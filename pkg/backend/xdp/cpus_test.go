package xdp

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// onCPU begins f on a thread that stays on a CPU, if there are so many, and ends
// with f.
func onCPU(cpu int, f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(cpu % runtime.NumCPU())
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- fmt.Errorf("move to CPU %d: %w", cpu, err)
			return
		}
		done <- f()
	}()
	return done
}

// realOf sends a packet, and says which real it was sent to.
func (h *harness) realOf(p lb.Packet) (netip.Addr, error) {
	opts := &ebpf.RunOptions{Data: frame(p), DataOut: make([]byte, 512)}
	action, err := h.dp.Program("lvx0").Run(opts)
	if err == nil && action != tx {
		err = fmt.Errorf("%v: action %d", p, action)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return macOwner(opts.DataOut[0:6]), nil
}

// opening is the first packet of the nth connection that a CPU gets.
func opening(cpu, n int) lb.Packet {
	p := syn(lb.TCP)
	p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(cpu), byte(n >> 14)}), uint16(1024+n&0x3fff))
	return p
}

// rr has one position for all CPUs: one connection behind the other, each goes to
// the next real, wherever it arrives.
func TestTurnsGoOnAtOtherCPUs(t *testing.T) {
	h := serving(t, lb.State{Services: []lb.Service{webService(3)}})
	for n := range 24 {
		var got netip.Addr
		must(t, <-onCPU(n&1, func() (err error) {
			got, err = h.realOf(opening(n&1, n))
			return err
		}))
		if want := realN(3 - n%3); got != want {
			t.Fatalf("connection %d went to %s, not to %s", n, got, want)
		}
	}
}

// At once the CPUs may take turns in groups. None is given twice, and what is left of
// a group is all that may be missing.
func TestTurnsOfCPUsAtOnce(t *testing.T) {
	h := serving(t, lb.State{Services: []lb.Service{webService(3)}})
	const each = 8000
	var counts [2]map[netip.Addr]int
	var done [2]<-chan error
	for cpu := range done {
		counts[cpu] = map[netip.Addr]int{}
		done[cpu] = onCPU(cpu, func() error {
			for n := range each {
				to, err := h.realOf(opening(cpu, n))
				if err != nil {
					return err
				}
				counts[cpu][to]++
			}
			return nil
		})
	}
	must(t, errors.Join(<-done[0], <-done[1]))
	turns := int(load64(&h.dp.Cursors[h.services["web"].index].Picks))
	unused := turns - 2*each
	t.Logf("%d turns of %d were left out", unused, turns)
	if unused < 0 {
		t.Fatalf("%d turns for %d connections", turns, 2*each)
	}
	for n := 1; n <= 3; n++ {
		got := counts[0][realN(n)] + counts[1][realN(n)]
		if got > turns/3+1 || got < turns/3-unused {
			t.Errorf("real %d got %d connections of %d: %d turns, of which %d were not used", n, got, 2*each, turns, unused)
		}
	}
}

// Each CPU counts connections for itself, and one may end elsewhere than it began.
// Once a scheduler goes by their number it is exact in one place.
func TestConnectionsOfCPUs(t *testing.T) {
	s := lb.State{Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	send := func(cpu int, p lb.Packet) (to netip.Addr) {
		t.Helper()
		must(t, <-onCPU(cpu, func() (err error) {
			to, err = h.realOf(p)
			return err
		}))
		return to
	}
	slots := map[netip.Addr]uint32{}
	for n := 1; n <= 2; n++ {
		slots[realN(n)] = h.services["web"].reals[netip.AddrPortFrom(realN(n), 0)].slot
	}
	check := func(when string, real int, active, inactive int32) {
		t.Helper()
		if a, i := h.liveConnections(slots[realN(real)]); a != active || i != inactive {
			t.Errorf("%s: real %d has %d active and %d inactive connections, not %d and %d", when, real, a, i, active, inactive)
		}
	}
	ended := 0
	for n := range 20 {
		p := opening(0, n)
		if to := send(0, p); to == realN(1) && ended < 6 {
			p.Flags = "F"
			send(1, p) // another CPU sees the end
			ended++
		}
	}
	check("rr", 1, 4, 6)
	check("rr", 2, 10, 0)

	s.Services[0].Scheduler = lb.LC
	h.apply(s)
	check("lc", 1, 4, 6)
	for n := 1; n <= 2; n++ {
		for part := 1; part < bpf.Shares; part++ {
			if got := *h.share(slots[realN(n)], part); got.Active != 0 || got.Inactive != 0 {
				t.Errorf("lc: share %d of real %d has %d and %d connections that the scheduler does not see", part, n, got.Active, got.Inactive)
			}
		}
	}
	for n := range 6 { // until both have as many
		if to := send(n&1, opening(1, n)); to != realN(1) {
			t.Errorf("lc: connection %d went to %s, which has more connections", n, to)
		}
	}
	check("lc", 1, 10, 6)

	s.Services[0].Scheduler = lb.RR
	h.apply(s)
	send(0, opening(1, 100))
	send(1, opening(1, 101))
	check("rr again", 1, 11, 6)
	check("rr again", 2, 11, 0)
}
