package xdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// BenchmarkApply is what the packet path costs a daemon of ten thousand
// services with four reals each: the periodic pass, which finds nothing
// changed and writes everything again, and the change of one weight.
func BenchmarkApply(b *testing.B) {
	h := newHarness(b, 1024, 64)
	states := [2]lb.State{manyServices(10_000), manyServices(10_000)}
	states[1].Services[5000].Reals[2].Weight = 2
	for _, s := range states {
		h.apply(s)
	}
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			h.apply(states[1])
		}
	})
	b.Run("one weight", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			h.apply(states[i%2])
		}
	})
}

func manyServices(n int) lb.State {
	s := lb.State{ExpireNodestConn: true}
	for i := range n {
		v := lb.Service{Name: fmt.Sprintf("service-%05d", i), Scheduler: lb.WRR}
		vip := netip.AddrFrom4([4]byte{10, 240, byte(i >> 8), byte(i)})
		v.Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: 80, Last: 80}}
		for r := range 4 {
			host := (4*i + r) % 400
			v.Reals = append(v.Reals, lb.Real{Addr: netip.AddrFrom4([4]byte{10, 242, byte(16 + host>>8), byte(host)}), Weight: 1})
		}
		s.Services = append(s.Services, v)
	}
	return s
}

// BenchmarkSweep is a whole pass over a table for a million connections, which
// the daemon makes in five seconds, with no connection in it.
func BenchmarkSweep(b *testing.B) {
	h := newHarness(b, 1_000_000, 1_000_000)
	h.apply(manyServices(1))
	for b.Loop() {
		h.Sweep()
	}
}
