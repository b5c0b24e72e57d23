package xdp

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// A director that has just taken over drops what may be of a connection that it has yet
// to be told of, and nothing else: what begins one is served, what is for no service is
// the host's.
func TestTakeoverWaitsForNews(t *testing.T) {
	h := newStill(t, 1024, 1024)
	ssh := netip.AddrPortFrom(web.Addr(), 22)
	for _, test := range []struct {
		what    string
		packet  lb.Packet
		sloppy  bool
		want    bpf.Verdict // while news are expected
		usually bpf.Verdict
	}{
		{"a segment", lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: "A"}, false, bpf.Moved, bpf.NoFlow},
		{"the last one", lb.Packet{Proto: lb.TCP, Src: at(1), Dst: web, Flags: "FA"}, false, bpf.Moved, bpf.NoFlow},
		{"one that would open a connection", lb.Packet{Proto: lb.TCP, Src: at(2), Dst: web, Flags: "A"}, true, bpf.Moved, bpf.Forwarded},
		{"a SYN", lb.Packet{Proto: lb.TCP, Src: at(3), Dst: web, Flags: "S"}, false, bpf.Forwarded, bpf.Forwarded},
		{"what is for the host", lb.Packet{Proto: lb.TCP, Src: at(4), Dst: ssh, Flags: "A"}, false, bpf.NoListener, bpf.NoListener},
	} {
		for until, want := range map[uint64]bpf.Verdict{math.MaxUint64: test.want, 0: test.usually} {
			h.apply(lb.State{SloppyTCP: test.sloppy, Services: []lb.Service{webService(2)}})
			must(t, h.dp.EmptyFlows())
			*h.dp.Takeover = until
			if got, _, _ := h.verdict(frameOf(test.packet, 0)); got != want.String() {
				t.Errorf("%s, news expected until %d: %s, want %s", test.what, until, got, want)
			}
		}
	}
}

// A reply by NAT whose connection is not known yet stays off the wire: with the real's
// address the client would answer it with a reset. What a real sends besides is routed:
// from another port, to open a connection, or as a reply from a VIP of another director.
func TestTakeoverKeepsRepliesOfNAT(t *testing.T) {
	h := newNAT(t, natService())
	reply := natPacket{proto: lb.TCP, src: natReal, dst: at(1), flags: "SA"}
	own, opens := reply, reply
	own.src = netip.AddrPortFrom(natReal.Addr(), 22)
	opens.flags = "S"
	*h.dp.Takeover = math.MaxUint64
	h.want(reply.frame(), "moved", drop)
	h.want(own.frame(), "not_ours", pass)
	h.want(opens.frame(), "not_ours", pass)
	h.apply(lb.State{Services: []lb.Service{natService()}, VIPs: []lb.VIP{{Addr: web.Addr(), Owner: "VI_2", Standby: true}}})
	h.want(reply.frame(), "not_ours", pass) // another director serves the VIP
	h.serveNAT(natService())
	*h.dp.Takeover = 0
	h.want(reply.frame(), "not_ours", pass)
}

// News are expected for as long as was asked for.
func TestExpectNews(t *testing.T) {
	h := serving(t, lb.State{Services: []lb.Service{webService(2)}})
	now, err := h.dp.Jiffies()
	must(t, err)
	must(t, h.ExpectNews(time.Minute))
	left := time.Duration(*h.dp.Takeover-now) * time.Second / time.Duration(loader.HZ())
	if left < time.Minute || left > time.Minute+time.Second {
		t.Errorf("they are expected for %s", left)
	}
}

// drawTakeover says whether the director has just taken over, for as long as the test
// lasts.
func drawTakeover(rt *rapid.T) (until uint64) {
	return draw(rt, "takeover until", 0, uint64(math.MaxUint64))
}
