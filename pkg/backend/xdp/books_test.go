package xdp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// checkBooks fails unless what the backend remembers agrees with itself: every
// slot and every line of the rings has one owner, and every real of the state
// in force has a record.
func (h *harness) checkBooks(t testing.TB) {
	t.Helper()
	owner := map[uint32]string{}
	for _, slot := range h.slots.free {
		if owner[slot] != "" {
			t.Fatalf("slot %d is free twice", slot)
		}
		owner[slot] = "free"
	}
	spans := slices.Concat(h.rings.free, h.ringsInGrace, h.ringsToRetire)
	for name, s := range h.services {
		if h.byIndex[s.index] != s {
			t.Fatalf("service %s does not have its index %d", name, s.index)
		}
		spans = append(spans, s.span)
		for k, r := range s.reals {
			if owner[r.slot] != "" {
				t.Fatalf("slot %d belongs to %s %s and is %s", r.slot, name, k, owner[r.slot])
			}
			owner[r.slot] = name
		}
	}
	if len(owner) != int(h.slots.next) {
		t.Fatalf("%d of %d slots have an owner", len(owner), h.slots.next)
	}
	spans = slices.DeleteFunc(spans, func(s span) bool { return s.n == 0 })
	slices.SortFunc(spans, func(a, b span) int { return int(a.at) - int(b.at) })
	at := uint32(0)
	for _, s := range spans {
		if s.at != at {
			t.Fatalf("ring lines %d to %d have no owner, or two", min(at, s.at), max(at, s.at))
		}
		at += s.n
	}
	if want := h.dp.Room().RingLines; int(at) != want {
		t.Fatalf("%d lines of rings have an owner, want %d", at, want)
	}
	for _, conf := range h.state.Services {
		s := h.services[conf.Name]
		if s == nil || !s.isThere {
			t.Fatalf("service %s is in force and has no record", conf.Name)
		}
		for _, r := range conf.Reals {
			if s.reals[r.Key()] == nil || !s.reals[r.Key()].isThere {
				t.Fatalf("service %s: real %s has no record", conf.Name, r.Addr)
			}
		}
	}
}

// published is what packets are told, and what listings say.
func (h *harness) published(t testing.TB) string {
	t.Helper()
	o, err := h.Observed()
	must(t, err)
	st, err := h.Stats()
	must(t, err)
	_, err = h.Connections(0)
	must(t, err)
	half := h.dp.Settings.Half & 1
	text := fmt.Sprintln(o.Services, st.Services, h.dp.Settings.Flags)
	for _, conf := range h.state.Services {
		s := h.services[conf.Name]
		e := h.dp.Services[half*bpf.Services+s.index]
		text += fmt.Sprintln(s.conf.Name, e, s.entry == e, h.dp.Rings[e.Ring:e.Ring+(e.RingSize+15)/16])
	}
	return text
}

// drawState draws a few services of a few reals.
func drawState(t *rapid.T) lb.State {
	s := lb.State{}
	for n := range rapid.IntRange(0, 4).Draw(t, "services") {
		if rapid.Bool().Draw(t, "absent") {
			continue
		}
		svc := webService(1 + rapid.IntRange(0, 3).Draw(t, "reals"))
		svc.Name = fmt.Sprintf("s%d", n)
		svc.Listeners = []lb.Listener{{Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}), Proto: lb.TCP, First: 80, Last: 80 + uint16(rapid.IntRange(0, 1).Draw(t, "ports"))}}
		svc.Scheduler = rapid.SampledFrom([]lb.Scheduler{lb.RR, lb.SH, lb.MH, lb.LC}).Draw(t, "scheduler")
		for i := range svc.Reals {
			svc.Reals[i].Weight = uint16(rapid.IntRange(0, 3).Draw(t, "weight"))
		}
		if rapid.Bool().Draw(t, "sorry") {
			svc.Sorry = realN(9)
		}
		if rapid.Bool().Draw(t, "deny") {
			svc.Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// A store that fails, whichever it is, leaves each service as it was or as it
// was to be, and the record of it too.
func TestFault23ApplyIsAllOrNothing(t *testing.T) {
	h := newStill(t, 1024, 256)
	rapid.Check(t, func(rt *rapid.T) {
		h.reset(t)
		steps, failing := 0, 0
		h.fail = func(step string) error {
			if steps++; steps == failing {
				return errors.New(step + " fails")
			}
			return nil
		}
		for range 4 {
			before := h.state
			want := drawState(rt)
			steps, failing = 0, rapid.IntRange(0, 25).Draw(rt, "failing")
			err := h.Apply(context.Background(), want)
			h.checkBooks(t)
			h.published(t)
			if err == nil && failing > 0 && failing <= steps {
				rt.Fatalf("step %d failed and Apply did not say so", failing)
			}
			for _, now := range h.state.Services {
				asked, isAsked := want.Service(now.Name)
				was, hadBeen := before.Service(now.Name)
				switch {
				case isAsked && cmp.Equal(now, asked, netipEqual):
				case hadBeen && cmp.Equal(now, was, netipEqual):
				default:
					rt.Fatalf("service %s is neither what it was nor what it was to be (%v)", now.Name, err)
				}
			}
			failing = 0
			must(t, h.Apply(context.Background(), want))
			h.checkBooks(t)
			got := h.published(t)
			must(t, h.Apply(context.Background(), want))
			if again := h.published(t); again != got {
				rt.Fatalf("applied again it is\n%s\nnot\n%s", again, got)
			}
		}
	})
}

var netipEqual = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// mhServices are n services whose rings are as long as rings of few reals get.
func mhServices(n, reals int) lb.State {
	var s lb.State
	for i := range n {
		svc := webService(reals)
		svc.Name, svc.Scheduler = fmt.Sprintf("s%d", i), lb.MH
		svc.Listeners = []lb.Listener{{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Proto: lb.TCP, First: 80, Last: 80}}
		s.Services = append(s.Services, svc)
	}
	return s
}

// 900 mh services fill nine tenths of the rings; when a check of each of them
// changes at a time, all of the rings are laid anew.
func TestFault23RingsMakeRoomForEachOther(t *testing.T) {
	h := newStill(t, 1024, 256)
	for reals := 1; reals <= 3; reals++ {
		must(t, h.Apply(context.Background(), mhServices(900, reals)))
		h.checkBooks(t)
	}
	o, err := h.Observed()
	must(t, err)
	if len(o.Services) != 900 || len(o.Services[899].Reals) != 3 {
		t.Errorf("%d services in force", len(o.Services))
	}
	must(t, Fits(mhServices(900, 3)))
}

// Each has a VIP and a ring of its own, all on one port. LVX_LOAD=1 is 10,000.
func TestManyMHServices(t *testing.T) {
	n := 1100
	if os.Getenv("LVX_LOAD") != "" {
		n = 10000
	}
	s := mhServices(n, 3)
	h := openHarness(t, Options{Flows: 1024, Templates: 256, StillClock: true, Room: RoomFor(s.Services)})
	start := time.Now()
	must(t, h.Apply(context.Background(), s))
	t.Logf("%d services of mh in %s, %d lines of rings", n, time.Since(start), h.dp.Room().RingLines)
	h.checkBooks(t)
	for _, i := range []int{0, 1, n / 2, n - 1} {
		conf := &s.Services[i]
		ring, err := sched.Build(string(lb.MH), 0, realsOfRing(conf), nil, 0)
		must(t, err)
		want := conf.Reals[ring.Slots[sched.MHSlot(client.Addr(), 0, 0)]].Addr
		if got := h.open(client, netip.AddrPortFrom(conf.Listeners[0].Addr, 80)); got != want {
			t.Errorf("service %d: %s, want %s", i, got, want)
		}
	}
}

func realsOfRing(conf *lb.Service) (in []sched.Real) {
	for i, r := range conf.Reals {
		in = append(in, sched.Real{ID: uint32(i), Weight: r.Weight, Addr: r.Addr})
	}
	return in
}

func TestFault23MoreRingsThanThereIsSpaceFor(t *testing.T) {
	too := mhServices(bpf.MostRingLines*bpf.RingLineSlots/sched.MaxSlots+1, 2)
	for i := range too.Services { // their rings are the longest that there are
		s := &too.Services[i]
		s.Scheduler, s.Reals[0].Weight, s.Reals[1].Weight = lb.WRR, sched.MaxSlots-1, 1
	}
	if err := Fits(too); !errors.Is(err, errNoRingSpace) {
		t.Errorf("Fits: %v", err)
	}
	h := openHarness(t, Options{Flows: 1024, Templates: 256, StillClock: true, Room: loader.Room{RingLines: bpf.MostRingLines}})
	others, err := h.rings.take(bpf.MostRingLines - 600) // what is left is too little for three
	must(t, err)
	if err := h.Apply(context.Background(), mhServices(3, 2)); !errors.Is(err, errNoRingSpace) {
		t.Errorf("Apply: %v", err)
	}
	h.rings.give(others)
	h.checkBooks(t)
	h.published(t)
	must(t, h.Apply(context.Background(), mhServices(3, 2)))
	h.checkBooks(t)
}

// scatteredVIPs are services on addresses that have nothing in common, half of them of IPv6.
func scatteredVIPs(n int) lb.State {
	random := rand.New(rand.NewPCG(1, 2))
	var s lb.State
	for i := range n {
		svc := webService(1)
		svc.Name = fmt.Sprintf("s%d", i)
		addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, random.Uint32())))
		if i%2 == 1 {
			addr = netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64([]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0}, random.Uint64())))
		}
		svc.Listeners = []lb.Listener{{Addr: addr, Proto: lb.TCP, First: 80, Last: 80}}
		s.Services = append(s.Services, svc)
	}
	return s
}

func TestFits(t *testing.T) {
	ports := webService(1)
	ports.Listeners = nil
	for p := range 60000 {
		ports.Listeners = append(ports.Listeners, lb.Listener{Addr: realN(99), Proto: lb.TCP, First: uint16(p + 1), Last: uint16(p + 1)})
	}
	many := lb.State{Services: make([]lb.Service, bpf.Services+1)}
	for name, test := range map[string]struct {
		state lb.State
		fits  bool
	}{
		"nothing":                     {lb.State{}, true},
		"60,000 ports":                {lb.State{Services: []lb.Service{ports}}, true},
		"services":                    {many, false},
		"bare VIP":                    {lb.State{VIPs: standby(realN(3))}, true},
		"thousand VIPs":               {mhServices(1000, 1), true},
		"10,000 VIPs of all networks": {scatteredVIPs(10_000), true},
	} {
		if err := Fits(test.state); (err == nil) != test.fits {
			t.Errorf("%s: %v", name, err)
		}
	}
}
