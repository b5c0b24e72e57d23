package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// An unsigned word changes no flow that this director has just seen at work, nor one
// that an authenticated peer told of; what came unsigned it does change, and what
// this director has not seen for a while.
func TestUnsignedWordHarmsNoProvenFlow(t *testing.T) {
	s := webService(2)
	entryOf := func(client netip.AddrPort, real netip.Addr, isUnsigned bool) connsync.Entry {
		return connsync.Entry{IsProven: true, IsUnsigned: isUnsigned, Record: connsync.Record{
			Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Client: client, Virtual: web, Real: netip.AddrPortFrom(real, 80),
		}}
	}
	first, second := s.Reals[0].Addr, s.Reals[1].Addr
	for name, test := range map[string]struct {
		prepare func(h *harness) netip.Addr
		isKept  bool
	}{
		"its own": {func(h *harness) netip.Addr { return h.open(at(1), web) }, true},
		"its own, where an unsigned one was": {func(h *harness) netip.Addr {
			_, err := h.Absorb(connsync.BatchOf(entryOf(at(1), second, true)))
			must(t, err)
			h.pass(int(ticks(2 * lb.DefaultTCPTimeout)))
			return h.open(at(1), web)
		}, true},
		"its own, long idle": {func(h *harness) netip.Addr { to := h.open(at(1), web); h.pass(int(ticks(2 * ownTime))); return to }, false},
		"a peer's": {func(h *harness) netip.Addr {
			_, err := h.Absorb(connsync.BatchOf(entryOf(at(1), first, false)))
			must(t, err)
			h.pass(int(ticks(2 * ownTime)))
			return first
		}, true},
		"a peer's, not at work yet": {func(h *harness) netip.Addr {
			e := entryOf(at(1), first, false)
			e.IsProven = false
			_, err := h.Absorb(connsync.BatchOf(e))
			must(t, err)
			return first
		}, true},
		"unsigned": {func(h *harness) netip.Addr {
			_, err := h.Absorb(connsync.BatchOf(entryOf(at(1), first, true)))
			must(t, err)
			return first
		}, false},
		"a peer's word on what was unsigned": {func(h *harness) netip.Addr {
			for _, isUnsigned := range []bool{true, false} {
				_, err := h.Absorb(connsync.BatchOf(entryOf(at(1), first, isUnsigned)))
				must(t, err)
			}
			return first
		}, true},
		"a peer's word, older than an unsigned one": {func(h *harness) netip.Addr {
			older := entryOf(at(1), first, false)
			older.Idle = 10 * time.Second
			for _, e := range []connsync.Entry{entryOf(at(1), second, true), older} {
				_, err := h.Absorb(connsync.BatchOf(e))
				must(t, err)
			}
			return first
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newStill(t, 1024, 1024)
			h.apply(lb.State{Services: []lb.Service{s}})
			real := test.prepare(h)
			other := first
			if real == first {
				other = second
			}
			forged := []connsync.Entry{entryOf(at(1), other, true)}
			if test.isKept { // its end, too
				end := entryOf(at(1), real, true)
				end.State, end.Flags = connsync.StateClose, connsync.FlagInactive
				forged = append(forged, end)
			}
			rejected, err := h.Absorb(connsync.BatchOf(forged...))
			must(t, err)
			h.pass(int(ticks(closeTimeout + time.Second)))
			want, wantRejected := other, 0
			if test.isKept {
				want, wantRejected = real, len(forged)
			}
			if got := h.data(at(1), web); got != want || rejected != wantRejected {
				t.Errorf("reached %s, %d rejected (%s, %d)", got, rejected, want, wantRejected)
			}
		})
	}
}
