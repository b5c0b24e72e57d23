package xdp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

const manyPrefixes = 100_000

// listed is a model of the lists: prefix by prefix, whether it denies.
type listed map[netip.Prefix]bool

// draw makes up so many prefixes, most of them long ones, that often lie
// within each other.
func (l listed) draw(r *rand.Rand, upTo int) {
	for len(l) < upTo {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.Uint32())
		b[0] = 32 + b[0]&7 // no martians, and not too far apart
		p := netip.PrefixFrom(netip.AddrFrom4(b), min(32, 9+r.IntN(30))).Masked()
		l[p] = r.IntN(2) == 0
	}
}

func (l listed) lists() (deny, allow []netip.Prefix) {
	for p, no := range l {
		if no {
			deny = append(deny, p)
		} else {
			allow = append(allow, p)
		}
	}
	return deny, allow
}

// denies tells what the longest prefix of a client says; without one he is
// denied, for there is an allow list.
func (l listed) denies(a netip.Addr) bool {
	for bits := 32; bits >= 0; bits-- {
		if no, ok := l[netip.PrefixFrom(a, bits).Masked()]; ok {
			return no
		}
	}
	return true
}

// compare sends packets of clients on, beside and between the prefixes, to the
// service with the lists and to the one without.
func (l listed) compare(t *testing.T, h *harness, r *rand.Rand) {
	t.Helper()
	all := make([]netip.Prefix, 0, len(l))
	for p := range l {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	no, yes := 0, 0
	for range 5000 {
		p := all[r.IntN(len(all))]
		b := p.Addr().As4()
		last := binary.BigEndian.Uint32(b[:]) | ^uint32(0)>>p.Bits()
		binary.BigEndian.PutUint32(b[:], last+uint32(r.IntN(3))-1) // the last of it, its neighbours
		from := netip.AddrPortFrom(netip.AddrFrom4(b), uint16(r.Uint32()))
		want := uint32(tx)
		if l.denies(from.Addr()) {
			want = drop
			no++
		} else {
			yes++
		}
		if _, got := h.runFrame(frame(lb.Packet{Proto: lb.UDP, Src: from, Dst: web})); got != want {
			t.Fatalf("%s (near %s): action %d, want %d", from.Addr(), p, got, want)
		}
		if _, got := h.runFrame(frame(lb.Packet{Proto: lb.UDP, Src: from, Dst: netip.AddrPortFrom(vip, 81)})); got != tx {
			t.Fatalf("%s to the service without lists: action %d", from.Addr(), got)
		}
	}
	if n := h.counted()["denied"]; n < uint64(no) {
		t.Errorf("denied was counted %d times, want %d", n, no)
	}
	if no < 500 || yes < 500 {
		t.Errorf("%d denied, %d allowed: this shows little", no, yes)
	}
}

// A service with 100,000 prefixes: loaded, edited, applied again, and taken
// over by a successor; the longest prefix decides throughout.
func TestManyPrefixes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	h := newStill(t, 65536, 64)
	open := webService(2)
	open.Name, open.Mark = "open", 9
	for i := range open.Listeners {
		open.Listeners[i].First, open.Listeners[i].Last = 81, 81
	}
	l := listed{}
	apply := func() {
		s := webService(2)
		s.Deny, s.Allow = l.lists()
		h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s, open}})
	}
	l.draw(r, manyPrefixes)
	apply()
	l.compare(t, h, r)

	// A third goes, some turn, others come.
	n := 0
	for p, no := range l {
		switch n++; n % 6 {
		case 0, 1:
			delete(l, p)
		case 2:
			l[p] = !no
		}
	}
	l.draw(r, manyPrefixes)
	apply()
	l.compare(t, h, r)
	apply()
	l.compare(t, h, r)

	// A successor finds what is there, and takes away what is not wanted.
	h.Backend = successor(h)
	for p := range l {
		if len(l) == 1000 {
			break
		}
		delete(l, p)
	}
	apply()
	l.compare(t, h, r)
	if n := len(h.filters); n != 1001 { // and the root of the allow list
		t.Errorf("%d entries are left, want 1001", n)
	}
}

// successor is the backend that a restarted daemon makes of the tables.
func successor(h *harness) *Backend {
	stop := h.stop
	b := newBackend(h.dp, h.opts)
	b.stop = stop
	return b
}
