package xdp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// succeed ends the backend as kill -9 does and opens the next one on what it
// left. The next one has not asked anybody yet.
func (h *harness) succeed() {
	h.t.Helper()
	must(h.t, h.Close(true))
	h.net.asking = true
	inNamespace(h.home, func() {
		var err error
		h.Backend, err = Open(context.Background(), h.opts)
		must(h.t, err)
	})
	if !h.dp.Adopted {
		h.t.Fatal("nothing was adopted")
	}
}

// fresh is a new connection's first packet, of the n-th client port.
func fresh(n int) []byte {
	return frame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), uint16(1000+n)), Dst: web, Flags: "S"})
}

// A successor that has not heard of a real yet uses what its predecessor
// knew: new clients are served all the time.
func TestNewClientsWhileRealsAreAskedAgain(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}, Peers: []netip.Addr{realN(1), realN(7)}}
	h := newHarness(t, 4096, 1024)
	h.net.local[realN(2)] = true
	h.net.silent[realN(3)] = "does not answer ARP"
	h.apply(s)
	// What prog-run calls the interface is not what the attachment says.
	peer := h.dp.Interfaces[0].Peer[0]
	peer.Addr = bpf.IPv4Word(realN(7))
	copy(peer.MAC[:], []byte{2, 0, 0, 0, 0, 77})
	h.dp.Interfaces[0].Peer[0] = peer

	h.succeed()
	h.apply(s)
	got := map[string]int{}
	for n := range 8 {
		v, _, _ := h.verdict(fresh(n))
		got[v]++
	}
	if got["forwarded"] != 4 || got["local"] != 4 {
		t.Errorf("while the reals are being asked, new connections are %v, want 4 forwarded and 4 local", got)
	}
	if p := h.dp.Interfaces[0].Peer[0]; p != peer {
		t.Errorf("peer %+v, was %+v", p, peer)
	}
	o, err := h.Observed()
	must(t, err)
	if rs := o.Services[0].Reals; !rs[0].Usable || rs[0].Device != "lvx0" && rs[0].Device != "" || rs[1].MAC != "local" || rs[2].Usable {
		t.Errorf("reals while they are being asked: %+v", rs)
	}

	// One that is new is not there before it has answered.
	s.Services[0].Reals = append(s.Services[0].Reals, lb.Real{Addr: realN(4), Weight: 1})
	h.apply(s)
	if o, err = h.Observed(); err != nil || o.Services[0].Reals[3].Usable {
		t.Errorf("a real that nobody ever saw: %+v, %v", o.Services[0].Reals[3], err)
	}

	// Answers count from here on, and also that one is missing.
	h.net.asking = false
	h.net.silent[realN(1)], h.net.silent[realN(2)] = "gone", "gone"
	h.apply(s)
	for n := range 4 {
		out, _ := h.runFrame(fresh(100 + n))
		if a := macOwner(out); a != realN(4) {
			t.Errorf("new connection to %s, want %s", a, realN(4))
		}
	}
	h.net.asking = true // the interface was down, they are asked once more
	h.apply(s)
	h.want(fresh(200), "no_real", drop) // it is being looked for
}

// What a killed daemon forwarded for is known to the next one, without a note.
func TestVIPsAreInherited(t *testing.T) {
	s := lb.State{Services: []lb.Service{webService(1), other()}, VIPs: []lb.VIP{{Addr: web.Addr()}, {Addr: other().Listeners[0].Addr, Owner: "VI_1", Standby: true}}}
	h := serving(t, s)
	h.succeed()
	if got := h.InheritedVIPs(); !slices.Equal(got, []netip.Addr{web.Addr()}) {
		t.Errorf("inherited: %v", got)
	}
}

// A service that was drained when its daemon died, and is gone from the
// file when the next one starts, is taken out.
func TestDrainedServiceGoneAtTheNextStart(t *testing.T) {
	drained := other()
	drained.Reals[0].Weight = 0
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1), drained}})
	h.succeed()
	h.net.asking = false
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	for range idlePasses {
		h.Sweep()
	}
	if s := h.services[drained.Name]; s != nil {
		t.Errorf("it is still there: %+v", s)
	}
}

// Rules that were cleared when the daemon died and are restored afterwards find
// their connections again (ipvsadm -C, kill -9, ipvsadm -R), however often the
// tables were laid out in between: by edits, and by the periodic pass.
func TestClearedServiceReturnsAfterTheNextStart(t *testing.T) {
	both := webService(3)
	cleared := lb.State{ExpireNodestConn: true, Services: []lb.Service{other()}}
	full := cleared.Clone()
	full.Services = append(full.Services, both)
	for _, layouts := range []int{1, 4} {
		t.Run(fmt.Sprint(layouts, " layouts"), func(t *testing.T) { testClearedReturns(t, full, cleared, layouts) })
	}
}

func testClearedReturns(t *testing.T, full, cleared lb.State, layouts int) {
	h := serving(t, full)
	want := map[lb.Protocol]netip.Addr{}
	known := map[lb.Protocol][]byte{}
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		from := netip.AddrPortFrom(client.Addr(), 1000)
		want[proto] = macOf(h, frame(lb.Packet{Proto: proto, Src: from, Dst: web, Flags: "S"}))
		known[proto] = frame(lb.Packet{Proto: proto, Src: from, Dst: web, Flags: "A"})
	}
	for range layouts {
		h.apply(cleared)
		h.Sweep()
	}
	for range 2 { // one after the other dies
		h.succeed()
		h.net.asking = false
		for range layouts {
			h.apply(cleared)
			h.want(known[lb.TCP], "not_ours", pass)
			h.Sweep()
		}
	}
	h.apply(full)
	for proto, f := range known {
		if got := macOf(h, f); got != want[proto] || !got.IsValid() {
			t.Errorf("after %d layouts the connection of %v goes to %s, want %s", layouts, proto, got, want[proto])
		}
	}
}

// What real servers have counted that are gone for good is in their service's sum at
// the next start, too: a counter never goes back.
func TestCountersOfGoneRealsOutliveAStart(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	for n := range 4 {
		h.want(fresh(n), "forwarded", tx)
	}
	s.Services[0].Reals = s.Services[0].Reals[:1]
	h.apply(s)
	h.pass(100)
	before, err := h.Stats()
	must(t, err)
	h.succeed()
	h.net.asking = false
	h.apply(s)
	after, err := h.Stats()
	must(t, err)
	if was, is := before.Services[0].Counters, after.Services[0].Counters; was != is || was.Conns != 4 || len(h.services["web"].reals) != 1 {
		t.Errorf("before the start %+v, after it %+v", was, is)
	}
}

// The number of a VIP that nobody listens on is kept for its connections, not
// longer, and belongs to no other VIP meanwhile.
func TestNumbersOfClearedServicesEnd(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}}
	h := serving(t, s)
	h.want(fresh(1), "forwarded", tx)
	h.apply(lb.State{ExpireNodestConn: true})
	for n := range 2 * idlePasses {
		h.Sweep()
		h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{other()}})
		if _, isKept := h.numbers.of[endpoint{web.Addr(), lb.TCP}]; !isKept {
			t.Fatalf("after %d passes the number of a live connection is forgotten", n)
		}
	}
	h.apply(lb.State{ExpireNodestConn: true})
	h.pass(100)
	for range 2 { // both halves
		h.apply(lb.State{ExpireNodestConn: true})
	}
	h.succeed()
	if n := len(h.numbers.who); n != 0 {
		t.Errorf("the next start finds %d numbers: %v", n, h.numbers.who)
	}
}

func macOf(h *harness, in []byte) netip.Addr {
	h.t.Helper()
	out, _ := h.runFrame(in)
	return macOwner(out)
}
