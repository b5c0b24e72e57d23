package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A service without listeners keeps the connections it has, and gets no new
// ones: they are somebody else's, behind XDP.
func TestServiceWithoutListenersDrains(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	known := map[lb.Protocol][]byte{}
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		known[proto] = frame(lb.Packet{Proto: proto, Src: client, Dst: web, Flags: "A"})
		h.want(frame(syn(proto)), "forwarded", tx)
	}
	other := netip.AddrPortFrom(client.Addr(), 40001)
	fresh := map[lb.Protocol][]byte{}
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		fresh[proto] = frame(lb.Packet{Proto: proto, Src: other, Dst: web, Flags: "S"})
	}

	s.Services[0].Listeners = nil
	for range 2 {
		h.apply(s)
		for proto, f := range known {
			h.want(f, "forwarded", tx)
			h.want(fresh[proto], "no_listener", pass)
		}
		h.Sweep()
	}
	if st, err := h.Stats(); err != nil || len(st.Services) != 1 || st.Services[0].Reals[0].Active+st.Services[0].Reals[1].Active != 1 {
		t.Errorf("stats of a draining service: %+v, %v", st.Services, err)
	}

	// A SYN on a connection that has ended is a new one.
	h.want(frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "R"}), "forwarded", tx)
	h.want(frame(syn(lb.TCP)), "no_listener", pass)

	h.apply(lb.State{ExpireNodestConn: true})
	h.want(known[lb.UDP], "not_ours", pass)

	s.Services = []lb.Service{webService(2)}
	h.apply(s)
	h.want(fresh[lb.TCP], "forwarded", tx)
}

// A real that is down has its connections until they expire.
func TestConnectionsOfARealThatIsDown(t *testing.T) {
	s := lb.State{Services: []lb.Service{webService(2)}}
	h := serving(t, s)
	first := h.Send(syn(lb.TCP)).Real
	left := func(want uint32) {
		t.Helper()
		st, err := h.Stats()
		must(t, err)
		if len(st.Services[0].Reals) != 1 {
			t.Errorf("%+v are there", st.Services[0].Reals)
		}
		r, ok := st.Services[0].Real(netip.AddrPortFrom(first, 0))
		if !ok || r.Active != want {
			t.Errorf("%+v (known: %t), want %d active", r, ok, want)
		}
	}
	h.applyWithout(s, first, false)
	left(1)
	h.pass(100)
	h.Sweep()
	left(0)
}

// When the last connection is over, the VIP is forgotten, and the number with
// it.
func TestDrainEnds(t *testing.T) {
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}}
	h := serving(t, s)
	h.want(frame(syn(lb.TCP)), "forwarded", tx)
	s.Services[0].Listeners = nil
	h.apply(s)
	h.pass(100)
	h.Sweep()
	h.apply(s)
	h.want(frame(syn(lb.TCP)), "not_ours", pass)
}

// What a deleted service was last counts for the connections that it leaves,
// not what it was before: without persistence, a closed one starts anew.
func TestDeletedServiceIsWhatItWasLast(t *testing.T) {
	h := newStill(t, 4096, 1024)
	for edits := range 4 { // whichever half of the tables is in force
		f := h.replay(t)
		f.nodest(false)
		f.ipvsadm("ipvsadm -A -t 10.0.0.100:80 -s rr -p 60; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -g")
		f.ipvsadm("ipvsadm -A -t 10.0.0.100:81 -s rr") // the VIP stays
		for n := range edits {
			f.state.Timeouts.UDP = time.Duration(100+n) * time.Second
			f.apply(f.state)
		}
		f.ipvsadm("ipvsadm -E -t 10.0.0.100:80 -s rr")
		f.expect("a connection", f.tcp(1, "S")+f.tcp(1, "A")+f.tcp(1, "R"), "rs1rs1rs1")
		f.ipvsadm("ipvsadm -D -t 10.0.0.100:80")
		f.expect("SYN on the closed one", f.tcp(1, "S"), "rst")
	}
}
