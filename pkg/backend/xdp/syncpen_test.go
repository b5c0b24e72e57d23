package xdp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// The pen does not grow: what does not fit is rejected and counted.
func TestPenIsBounded(t *testing.T) {
	h := newStill(t, 1024, 1024)
	h.apply(lb.State{Services: []lb.Service{webService(2)}})
	entries := make([]connsync.Entry, penSize+100)
	for i := range entries {
		entries[i].Record = connsync.Record{
			Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Timeout: 900 * time.Second,
			Client: at(i), Virtual: web, Real: netip.MustParseAddrPort("10.9.9.9:80"),
		}
	}
	rejected, err := h.Absorb(connsync.BatchOf(entries...))
	must(t, err)
	if rejected != 100 || len(h.pen.entries) != penSize {
		t.Errorf("%d rejected, %d wait (100, %d)", rejected, len(h.pen.entries), penSize)
	}
	h.pen = pen{}
	for i := range entries {
		entries[i].IsUnsigned = true
	}
	rejected, err = h.Absorb(connsync.BatchOf(entries...))
	must(t, err)
	if want := len(entries) - penSize/2; rejected != want || len(h.pen.entries) != penSize/2 || len(h.pen.turnedAway) != 0 {
		t.Errorf("unsigned: %d rejected, %d wait, %d reals to be told of again (%d, %d, 0)", rejected, len(h.pen.entries), len(h.pen.turnedAway), want, penSize/2)
	}
	for i := range entries {
		entries[i].IsUnsigned = false
	}
	for i := range 2 * maxTurnedAway {
		entries[i].Real = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 80)
	}
	h.pen = pen{entries: slices.Repeat([]waiting{{until: time.Now().Add(time.Hour)}}, penSize), afterApply: h.applies}
	if _, err := h.Absorb(connsync.BatchOf(entries...)); err != nil || len(h.pen.turnedAway) != maxTurnedAway {
		t.Errorf("%d reals of entries without room (%d): %v", len(h.pen.turnedAway), maxTurnedAway, err)
	}
}

// What has waited too long takes no room of what comes, also where nothing is applied.
func TestPenIsBoundedInTime(t *testing.T) {
	for _, isUnsigned := range []bool{false, true} {
		var p pen
		e, now := connsync.Entry{Record: connsync.Record{Virtual: web}, IsUnsigned: isUnsigned}, time.Now()
		for p.take(e, now) {
		}
		if p.take(e, now.Add(penTime)) {
			t.Errorf("unsigned %t: room beside entries that wait", isUnsigned)
		}
		if !p.take(e, now.Add(penTime+1)) || len(p.entries) != 1 {
			t.Errorf("unsigned %t: %d entries behind those that have waited too long", isUnsigned, len(p.entries))
		}
	}
}

// Once a real is known whose entries waited, they are taken without another word
// of a peer; where some had no room, peers have to tell of everything again.
func TestEntriesOfRealsThatCome(t *testing.T) {
	for _, test := range []struct {
		count      int
		wantMissed uint64
	}{{penSize, 0}, {penSize + 1, 1}} {
		t.Run(fmt.Sprint(test.count), func(t *testing.T) {
			h := newStill(t, 4*penSize, 1024)
			services := func(reals int, scheduler lb.Scheduler) lb.State {
				s := webService(reals)
				s.Scheduler = scheduler
				return lb.State{Services: []lb.Service{s}}
			}
			h.apply(services(2, lb.RR))
			entries := make([]connsync.Entry, test.count)
			for i := range entries {
				entries[i] = connsync.Entry{IsProven: true, Record: connsync.Record{
					Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Timeout: 900 * time.Second,
					Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), uint16(1000+i>>16)), Virtual: web,
					Real: netip.AddrPortFrom(realN(3), 80),
				}}
			}
			_, err := h.Absorb(connsync.BatchOf(entries...))
			must(t, err)
			h.apply(services(2, lb.WRR)) // has nothing to do with it
			if n := h.Missed(); n != 0 || len(h.pen.entries) != penSize {
				t.Errorf("%d missed, %d wait (0, %d)", n, len(h.pen.entries), penSize)
			}
			h.apply(services(3, lb.WRR))
			if n := h.Missed(); n != test.wantMissed || len(h.pen.entries) != 0 {
				t.Errorf("the real is there: %d missed, %d wait (%d, 0)", n, len(h.pen.entries), test.wantMissed)
			}
			conns, err := h.Connections(0)
			must(t, err)
			if len(conns) != penSize {
				t.Errorf("%d connections (%d)", len(conns), penSize)
			}
		})
	}
}

// What waited for its real is known as well as what did not: an unsigned word
// that comes while it waits, or later, changes nothing of it.
func TestUnsignedWordHarmsNothingThatWaited(t *testing.T) {
	const count = 100
	entryOf := func(i, real int, isUnsigned bool) connsync.Entry {
		return connsync.Entry{IsProven: true, IsUnsigned: isUnsigned, Record: connsync.Record{
			Protocol: connsync.ProtocolTCP, State: connsync.StateEstablished, Timeout: 900 * time.Second,
			Client: at(i), Virtual: web, Real: netip.AddrPortFrom(realN(real), 80),
		}}
	}
	for name, isEarly := range map[string]bool{"while it waits": true, "later": false} {
		t.Run(name, func(t *testing.T) {
			h := newStill(t, 1024, 1024)
			h.apply(lb.State{Services: []lb.Service{webService(0)}})
			signed, forged := make([]connsync.Entry, count), make([]connsync.Entry, count)
			for i := range count {
				signed[i], forged[i] = entryOf(i, 1+i%2, false), entryOf(i, 2-i%2, true)
			}
			absorb := func(entries []connsync.Entry) {
				t.Helper()
				_, err := h.Absorb(connsync.BatchOf(entries...))
				must(t, err)
			}
			absorb(signed)
			if isEarly {
				absorb(forged)
			}
			h.apply(lb.State{Services: []lb.Service{webService(2)}})
			h.Missed()
			absorb(forged)
			for i := range count {
				if got := h.data(at(i), web); got != realN(1+i%2) {
					t.Errorf("connection %d reached %s, want %s", i, got, realN(1+i%2))
				}
			}
		})
	}
}

// What a kernel tells of SCTP makes no TCP connection and no template of TCP, and waits for
// nothing.
func TestEntriesOfOtherProtocols(t *testing.T) {
	s := webService(2)
	s.Persistence.Timeout = time.Minute
	h := newStill(t, 1024, 1024)
	h.apply(lb.State{Services: []lb.Service{s}})
	var entries []connsync.Entry
	for i, flags := range []connsync.Flags{0, connsync.FlagTemplate} {
		entries = append(entries, connsync.Entry{IsUnsigned: true, Record: connsync.Record{
			Protocol: connsync.ProtocolSCTP, State: connsync.StateEstablished, Flags: directRouting | flags, Timeout: time.Minute,
			Client: at(i), Virtual: web, Real: netip.AddrPortFrom(realN(1), 80),
		}})
	}
	rejected, err := h.Absorb(connsync.BatchOf(entries...))
	must(t, err)
	conns, err := h.Connections(0)
	must(t, err)
	if rejected != len(entries) || len(conns) != 0 || len(h.pen.entries) != 0 {
		t.Errorf("%d rejected, %d connections and templates, %d wait", rejected, len(conns), len(h.pen.entries))
	}
}
