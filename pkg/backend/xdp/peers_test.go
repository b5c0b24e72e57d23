package xdp

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// peerN is the nth fellow director, and its MAC.
func peerN(n int) (netip.Addr, [6]byte) {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(200 + n)}), [6]byte{2, 0, 10, 0, 0, byte(200 + n)}
}

// onWire makes the addresses ones that are heard where the program is
// attached, and reached from this MAC. (prog-run's frames come by another
// interface: what is sent to them is redirected.)
func (h *harness) onWire(from [6]byte, as ...netip.Addr) {
	if h.net.hosts == nil {
		h.net.hosts = map[netip.Addr]Neighbor{}
	}
	for _, a := range as {
		n := h.net.Lookup(a)
		n.IfIndex, n.Source = h.dp.Attachments[0].Index, from
		h.net.hosts[a] = n
	}
}

// Whatever a fellow director has sent to this real server ends here: from any
// of them, in any frame, and with its own address too: such are its checks
// through the VIP.
func TestFramesOfPeers(t *testing.T) {
	h := newHarness(t, 4096, 1024)
	h.net.local[realN(1)] = true
	var peers []netip.Addr
	for n := range len(bpf.Interface{}.Peer) {
		a, _ := peerN(n)
		peers = append(peers, a)
	}
	h.onWire(directorMAC, peers...)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(2)}, Peers: peers})
	h.want(frame(syn(lb.TCP)), "forwarded", tx) // the client's connection is known

	data := frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "A"}, 100)
	parts := fragments(77)
	for name, in := range map[string][]byte{
		"SYN": frame(syn(lb.TCP)), "data of a known connection": data, "UDP": frame(syn(lb.UDP)),
		"one tag": tagged(data, 0x8100), "two tags": tagged(frame(syn(lb.TCP)), 0x88a8, 0x8100),
		"IP options": withOptions(data, 3), "first fragment": parts[0], "middle fragment": parts[1], "last fragment": parts[2],
		"tagged fragment": tagged(parts[1], 0x8100), "ICMP error": icmpError(3, 4, lb.TCP, 0),
		"a port without a service": frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(vip, 81)}),
	} {
		for n := range peers {
			_, mac := peerN(n)
			f := append([]byte(nil), in...)
			copy(f[6:], mac[:])
			t.Run(fmt.Sprintf("%s of peer %d", name, n), func(t *testing.T) { h.want(f, "from_peer", pass) })
		}
		_, mac := peerN(len(peers))
		f := append([]byte(nil), in...)
		copy(f[6:], mac[:])
		if v, _, _ := h.verdict(f); v == "from_peer" {
			t.Errorf("%s of a host that is no director was taken for a peer's", name)
		}
	}

	addr, mac := peerN(2)
	own := frame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(addr, 4000), Dst: web})
	for _, f := range [][]byte{own, tagged(own, 0x8100)} {
		copy(f[6:], mac[:])
		h.want(f, "from_peer", pass)
	}
}

// wire is a switch with some hosts: directors by their MAC, everybody else
// only receives.
type wire map[[6]byte]*harness

// carry delivers a frame and what becomes of it, and tells how many directors
// sent it on, and what the last one did: "sent to a real" if it is with none
// of them.
func (w wire) carry(in []byte) (sent int, end string) {
	for range 100 {
		h := w[[6]byte(in)]
		if h == nil {
			return sent, "sent to a real"
		}
		verdict, out, action := h.verdict(in)
		if action == pass || action == drop {
			return sent, verdict
		}
		sent++
		in = out
	}
	return sent, "no end"
}

// place is a test's second, third ... network namespace.
type place struct{ testing.TB }

// directors are n fellow directors, each of which is a real server of the
// service as well, as is one host more; told reports whether they know of each
// other.
func directors(t *testing.T, n int, knowsPeers bool) wire {
	w := wire{}
	for me := range n {
		at := &place{t}
		h := &harness{t: t, home: at, net: newSegment()}
		mac := h.net.Lookup(realN(me + 1)).MAC
		h.opts = Options{
			Log: quiet(t), Interfaces: []string{"lvx0"}, Mode: loader.Auto, NoSweeper: true, Neighbors: h.net, Flows: 4096, Templates: 1024,
			PinDir: fmt.Sprintf("/sys/fs/bpf/lvx-test-%d-%d", os.Getpid(), pinCount.Add(1)),
		}
		h.Backend = openAs(at, mac, h.opts)
		t.Cleanup(func() { _ = h.Close(false) })
		s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(n + 1)}, VIPs: leased(1, vip)}
		for other := range n + 1 {
			if other == me {
				h.net.local[realN(me+1)] = true
				continue
			}
			h.onWire(mac, realN(other+1))
			if knowsPeers && other < n {
				s.Peers = append(s.Peers, realN(other+1))
			}
		}
		h.apply(s)
		must(t, h.Renew(1, time.Hour))
		w[mac] = h
	}
	return w
}

// clients sends SYNs of so many clients to each director, every other one
// tagged, and tells how often one was sent on at most, and how they ended.
func (w wire) clients(n int) (most int, ends map[string]int) {
	ends = map[string]int{}
	for mac := range w {
		for port := range n {
			f := frame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), uint16(1000+port)), Dst: web})
			copy(f, mac[:])
			if port%2 == 1 {
				f = tagged(f, 0x8100)
			}
			sent, end := w.carry(f)
			most = max(most, sent)
			ends[end]++
		}
	}
	return most, ends
}

// Directors that are each other's real servers: a packet is balanced once,
// whichever director gets it first. Without `peers:` only its TTL stops it.
func TestDirectorsDoNotPlayPingPong(t *testing.T) {
	for _, knowsPeers := range []bool{true, false} {
		w := directors(t, 3, knowsPeers)
		most, ends := w.clients(60)
		t.Logf("told of each other: %v; sent on at most %d times; %v", knowsPeers, most, ends)
		switch {
		case knowsPeers && (most > 1 || ends["from_peer"] == 0 || ends["local"] == 0 || ends["sent to a real"] == 0):
			t.Errorf("a packet was sent on %d times; %v", most, ends)
		case !knowsPeers && (most < 2 || most > 64):
			t.Errorf("without peers a packet was sent on %d times, want some ping-pong, and at most as its TTL says", most)
		}
	}
}

// A director without a daemon gets no clients, but what the others send it as
// a real server: they see it alive.
func TestPeerWithoutADaemonIsAReal(t *testing.T) {
	w := directors(t, 3, true)
	dead := w[(&segment{}).Lookup(realN(1)).MAC]
	must(t, dead.Renew(1, 0))
	most, ends := w.clients(40)
	t.Logf("%v", ends)
	if most != 1 || ends["lease_over"] != 40 || ends["from_peer"] != 40 {
		t.Errorf("sent on at most %d times, want 1; %v, want 40 frames refused for the lease and 40 from peers", most, ends)
	}
}
