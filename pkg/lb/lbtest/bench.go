package lbtest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// bench is one case's harness with the shorthand that makes cases readable:
// real servers are 1, 2, 3 (10.0.0.11 to 13), the sorry server is "s", no
// server at all is "-", as in the recordings of the kernel.
type bench struct {
	*testing.T
	h    Harness
	port uint16 // of the last new connection
}

var (
	vip     = netip.MustParseAddr("10.0.0.100")
	sorryIP = netip.MustParseAddr("10.0.0.14")
	client  = netip.MustParseAddr("172.16.0.5")
	web     = netip.AddrPortFrom(vip, 80)
)

// server is real server n with a weight.
func server(n int, weight uint16) lb.Real {
	return lb.Real{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)}), Weight: weight}
}

// reals are real servers 1, 2, ... with the given weights.
func reals(weights ...uint16) []lb.Real {
	var rs []lb.Real
	for i, w := range weights {
		rs = append(rs, server(i+1, w))
	}
	return rs
}

func tcp(vip netip.Addr, first, last uint16) lb.Listener {
	return lb.Listener{Addr: vip, Proto: lb.TCP, First: first, Last: last}
}

func udp(vip netip.Addr, first, last uint16) lb.Listener {
	return lb.Listener{Addr: vip, Proto: lb.UDP, First: first, Last: last}
}

// service is "web" on VIP:80/tcp.
func service(sched lb.Scheduler, rs ...lb.Real) lb.Service {
	return lb.Service{Name: "web", Listeners: []lb.Listener{tcp(vip, 80, 80)}, Scheduler: sched, Reals: rs}
}

func state(services ...lb.Service) lb.State {
	return lb.State{ExpireNodestConn: true, Services: services}
}

func (b *bench) apply(s lb.State) {
	b.Helper()
	if err := b.h.Apply(context.Background(), s); err != nil {
		b.Fatalf("apply: %v", err)
	}
}

func short(o Outcome) string {
	switch {
	case !o.Real.IsValid():
		return "-"
	case o.Real == sorryIP:
		return "s"
	case o.Real.Is4() && o.Real.As4()[3] > 10 && o.Real.As4()[3] < 20:
		return fmt.Sprint(o.Real.As4()[3] - 10)
	}
	return o.Real.String()
}

// send sends one packet and gives the server's digit.
func (b *bench) send(proto lb.Protocol, src, dst netip.AddrPort, flags string) string {
	return short(b.h.Send(lb.Packet{Proto: proto, Src: src, Dst: dst, Flags: flags}))
}

// from is the client's address with a port that was not used before.
func (b *bench) from(c netip.Addr) netip.AddrPort {
	b.port++
	return netip.AddrPortFrom(c, 20000+b.port)
}

// conns opens n connections to dst, each from a new port of the client.
func (b *bench) conns(n int, dst netip.AddrPort) string {
	var got []string
	for range n {
		got = append(got, b.send(lb.TCP, b.from(client), dst, "S"))
	}
	return strings.Join(got, " ")
}

// established opens one connection and tells its client end and its server.
func (b *bench) established(c netip.Addr, dst netip.AddrPort) (netip.AddrPort, string) {
	b.Helper()
	src := b.from(c)
	to := b.send(lb.TCP, src, dst, "S")
	if ack := b.send(lb.TCP, src, dst, "A"); ack != to {
		b.Fatalf("the ACK of a connection to %s went to %s", to, ack)
	}
	return src, to
}

func (b *bench) want(what, got, want string) {
	b.Helper()
	if got != want {
		b.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}
