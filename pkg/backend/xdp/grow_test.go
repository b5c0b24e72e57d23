package xdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// servicesOf are services of some reals each.
func servicesOf(services, reals int, scheduler lb.Scheduler) (s lb.State) {
	for i := range services {
		conf := lb.Service{Name: fmt.Sprint("s", i), Scheduler: scheduler}
		conf.Listeners = []lb.Listener{{Addr: vip, Proto: lb.TCP, First: uint16(1000 + i), Last: uint16(1000 + i)}}
		for r := range reals {
			conf.Reals = append(conf.Reals, lb.Real{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i), byte(r)}), Weight: 1})
		}
		s.Services = append(s.Services, conf)
	}
	return s
}

// What does not fit makes the tables grow: connections go on, all services are
// served, and what was counted stays.
func TestApplyGrowsTheTables(t *testing.T) {
	for name, more := range map[string]lb.State{
		"reals": servicesOf(80, 110, lb.RR), // 8,800
		"rings": servicesOf(140, 3, lb.MH),  // 140 x 256 lines
	} {
		t.Run(name, func(t *testing.T) {
			h := openHarness(t, Options{Flows: 1024, Templates: 256, StillClock: true, Room: loader.RoomFor(0, 0)})
			before := h.dp.Room()
			few := lb.State{Services: more.Services[:1]}
			h.apply(few)
			web := netip.AddrPortFrom(vip, 1000)
			var first []netip.Addr
			for i := range 40 {
				first = append(first, h.open(at(i), web))
			}
			h.apply(more)
			if now := h.dp.Room(); now == before || now.Reals < before.Reals || now.RingLines < before.RingLines {
				t.Fatalf("room %+v, before it %+v", now, before)
			}
			for i, before := range first {
				if now := h.data(at(i), web); now != before || !now.IsValid() {
					t.Errorf("connection %d went to %s, then to %s", i, before, now)
				}
			}
			last := netip.AddrPortFrom(vip, uint16(1000+len(more.Services)-1))
			if got := h.open(at(0), last); !got.IsValid() {
				t.Error("the last service is not served")
			}
			st, err := h.Stats()
			must(t, err)
			if n := st.Services[0].Conns; n != 40 {
				t.Errorf("%d connections are counted, want 40", n)
			}
			active := uint32(0)
			for _, r := range st.Services[0].Reals {
				active += r.Active + r.Inactive
			}
			if active != 40 {
				t.Errorf("%d connections live, want 40", active)
			}
		})
	}
}
