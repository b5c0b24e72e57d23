package lbtest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// The expectations of this file are recordings of Linux 6.1 (01-rr, 02-wrr,
// 03-sh).

func rrOrder(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	b.want("reals 1, 2, 3", b.conns(12, web), "3 2 1 3 2 1 3 2 1 3 2 1")
}

func rrWeights(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 5, 0)...)))
	b.want("weights 1, 5, 0", b.conns(9, web), "2 1 2 1 2 1 2 1 2")
}

func rrEdit(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	b.want("before", b.conns(4, web), "3 2 1 3")
	b.apply(state(service(lb.RR, reals(1, 0, 1)...)))
	b.want("real 2 at weight 0", b.conns(6, web), "1 3 1 3 1 3")
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	b.want("real 2 back", b.conns(6, web), "2 1 3 2 1 3")
}

// rrReturn differs from the kernel on purpose: there a real that is added
// again goes to the head of the list.
func rrReturn(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	b.conns(3, web)
	b.apply(state(service(lb.RR, server(1, 1), server(3, 1))))
	got := b.conns(4, web)
	if got != "3 1 3 1" && got != "1 3 1 3" {
		b.Errorf("without real 2: got %s", got)
	}
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	if got := b.conns(6, web); !strings.Contains("3 2 1 3 2 1 3 2 1", got) {
		b.Errorf("with real 2 back: got %s, want 3 2 1 again, from any of them on", got)
	}
}

func wrrSequences(b *bench) {
	for _, c := range []struct {
		weights []uint16
		want    string
	}{
		{[]uint16{1, 2}, "2 1 2 2 1 2 2 1 2"},
		{[]uint16{2, 1}, "2 1 1 2 1 1 2 1 1"},
		{[]uint16{1, 1}, "2 1 2 1 2 1"},
		{[]uint16{3, 1, 2}, "3 2 1 1 3 1 3 2 1 1 3 1 3 2 1 1 3 1"},
		{[]uint16{1, 2, 3}, "3 2 1 3 3 2 3 2 1 3 3 2 3 2 1 3 3 2"},
		{[]uint16{6, 2, 4}, "3 2 1 1 3 1 3 2 1 1 3 1 3 2 1 1 3 1"},
		{[]uint16{10, 5, 5}, "3 2 1 1 3 2 1 1 3 2 1 1"},
		{[]uint16{5, 1, 1}, "3 2 1 1 1 1 1 3 2 1 1 1 1 1 3 2 1 1 1 1 1"},
		{[]uint16{100, 100, 50}, "3 2 1 2 1 3 2 1 2 1 3 2 1 2 1"},
		{[]uint16{1, 0, 2}, "3 1 3 3 1 3 3 1 3"},
		{[]uint16{0, 1}, "2 2 2"},
		{[]uint16{7, 3, 2}, "3 2 1 1 1 1 1 2 1 3 2 1 3 2 1 1 1 1 1 2 1 3 2 1"},
	} {
		b.apply(state()) // a service that is added anew starts anew
		b.apply(state(service(lb.WRR, reals(c.weights...)...)))
		n := strings.Count(c.want, " ") + 1
		b.want(fmt.Sprintf("weights %v", c.weights), b.conns(n, web), c.want)
	}
}

// shBuckets sends one SYN from each of 172.16.0.0 to .255. Without sh-port
// the client's port does not count, so every row has its own: no flow of the
// row before decides.
func shBuckets(b *bench) {
	for row, c := range []struct {
		reals []lb.Real
		want  string
	}{
		{reals(1, 1), "" +
			"2221111222221111222221111122221111122221111122222111122222111112" +
			"2221111122221111122222111122222111122222111112222111112222111112" +
			"2222111122222111112222111112222111112222211112222211112222211111" +
			"2222111112222211112222211112222211111222211111222211111222221111"},
		{[]lb.Real{server(2, 1), server(1, 1)}, "" +
			"1112222111112222111112222211112222211112222211111222211111222221" +
			"1112222211112222211111222211111222211111222221111222221111222221" +
			"1111222211111222221111222221111222221111122221111122221111122222" +
			"1111222221111122221111122221111122222111122222111122222111112222"},
		{reals(1, 1, 1), "" +
			"3122323212321312231311232331213131323232121213131323112123313122" +
			"3132123212122313112323212131313232321212131213231121233121323132" +
			"3232121223131323232121313122323212321312132311232331213131323232" +
			"1212131313232321233131223132123213121313112323312131313232311212"},
	} {
		b.apply(state())
		b.apply(state(service(lb.SH, c.reals...)))
		var got strings.Builder
		for i := range 256 {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(i)}), 1024+uint16(row))
			got.WriteString(b.send(lb.TCP, src, web, "S"))
		}
		b.want(fmt.Sprintf("%d reals", len(c.reals)), got.String(), c.want)
	}
}

func udpFlow(b *bench) {
	svc := service(lb.RR, reals(1, 1)...)
	svc.Listeners = []lb.Listener{udp(vip, 53, 53)}
	b.apply(state(svc))
	dst := netip.AddrPortFrom(vip, 53)
	first := b.from(client)
	b.want("first client", b.send(lb.UDP, first, dst, ""), "2")
	b.want("second client", b.send(lb.UDP, b.from(client), dst, ""), "1")
	b.want("first client again", b.send(lb.UDP, first, dst, ""), "2")
}
