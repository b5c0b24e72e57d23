package lbtest

import (
	"net/netip"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func quiesce(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	src, to := b.established(client, web)
	b.want("first connection", to, "3")
	b.apply(state(service(lb.RR, reals(1, 1, 0)...)))
	b.want("old connection", b.send(lb.TCP, src, web, "A"), "3")
	b.want("new connections", b.conns(4, web), "2 1 2 1")
	b.want("old connection still", b.send(lb.TCP, src, web, "A"), "3")
}

func removeReal(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	removed, to := b.established(client, web)
	b.want("connection to the real that goes", to, "3")
	stays, to := b.established(client, web)
	b.want("connection to a real that stays", to, "2")

	b.apply(state(service(lb.RR, reals(1, 1)...)))
	if got := b.send(lb.TCP, removed, web, "A"); got != "-" {
		b.Errorf("packet of a removed real's connection went to %s", got)
	}
	if got := b.send(lb.TCP, removed, web, "S"); got != "1" && got != "2" {
		b.Errorf("SYN from that port went to %s, want a real that is there", got)
	}
	b.want("other connection", b.send(lb.TCP, stays, web, "A"), "2")
}

func removeService(b *bench) {
	other := service(lb.RR, reals(1)...)
	other.Name, other.Listeners = "mail", []lb.Listener{tcp(vip, 25, 25)}
	b.apply(state(service(lb.RR, reals(1, 1)...), other))
	src, _ := b.established(client, web)
	b.apply(state(other))
	b.want("old connection", b.send(lb.TCP, src, web, "A"), "-")
	b.want("new connection", b.conns(1, web), "-")
	b.want("the other service", b.conns(1, netip.AddrPortFrom(vip, 25)), "1")
}

func addService(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	src, to := b.established(client, web)
	other := service(lb.RR, reals(1)...)
	other.Name, other.Listeners = "mail", []lb.Listener{tcp(vip, 25, 25)}
	b.apply(state(other, service(lb.RR, reals(1, 1, 1)...)))
	b.want("old connection", b.send(lb.TCP, src, web, "A"), to)
	b.want("rotation goes on", b.conns(3, web), "2 1 3")
	b.want("the new service", b.conns(2, netip.AddrPortFrom(vip, 25)), "1 1")
}

func group(b *bench) {
	svc := service(lb.RR, reals(1, 1, 1)...)
	svc.Mark = 10
	svc.Listeners = []lb.Listener{tcp(vip, 80, 80), tcp(vip, 443, 443), tcp(vip, 8000, 8100)}
	b.apply(state(svc))
	at := func(port uint16) string { return b.conns(1, netip.AddrPortFrom(vip, port)) }
	b.want("80, 443, 8050, 80", at(80)+at(443)+at(8050)+at(80), "3213")
	b.want("ends of the range", at(8000)+at(8100), "21")
	b.want("outside of the range", at(7999)+at(8101)+at(81), "---")
}

func everyPort(b *bench) {
	svc := service(lb.RR, reals(1, 1)...)
	svc.Listeners = []lb.Listener{tcp(vip, 0, 0)}
	b.apply(state(svc))
	at := func(port uint16) string { return b.conns(1, netip.AddrPortFrom(vip, port)) }
	b.want("ports 1, 80, 65535", at(1)+at(80)+at(65535), "212")
	b.want("another protocol", b.send(lb.UDP, b.from(client), web, ""), "-")
}

func narrowest(b *bench) {
	all, some, one := service(lb.RR, server(1, 1)), service(lb.RR, server(2, 1)), service(lb.RR, server(3, 1))
	all.Name, all.Listeners = "all", []lb.Listener{tcp(vip, 0, 0)}
	some.Name, some.Mark, some.Listeners = "some", 7, []lb.Listener{tcp(vip, 80, 89)}
	b.apply(state(all, some, one))
	at := func(port uint16) string { return b.conns(1, netip.AddrPortFrom(vip, port)) }
	b.want("ports 80, 81, 90", at(80)+at(81)+at(90), "321")
}

func othersPass(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1)...)))
	b.want("another port", b.conns(1, netip.AddrPortFrom(vip, 81)), "-")
	b.want("another address", b.conns(1, netip.MustParseAddrPort("10.0.0.101:80")), "-")
	b.want("another protocol", b.send(lb.UDP, b.from(client), web, ""), "-")
	b.want("the service", b.conns(1, web), "2")
}

func noFlow(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1)...)))
	for _, flags := range []string{"A", "FA", "R"} {
		b.want(flags+" without a connection", b.send(lb.TCP, b.from(client), web, flags), "-")
	}
	s := state(service(lb.RR, reals(1, 1)...))
	s.SloppyTCP = true
	b.apply(s)
	b.want("with sloppy_tcp", b.send(lb.TCP, b.from(client), web, "A"), "2")
}

// closedFlow: a SYN on CLOSE is a new connection (recording 06-tcp-states).
func closedFlow(b *bench) {
	b.apply(state(service(lb.RR, reals(1, 1, 1)...)))
	src, to := b.established(client, web)
	b.want("first", to, "3")
	b.want("SYN while established", b.send(lb.TCP, src, web, "S"), "3")
	b.want("RST", b.send(lb.TCP, src, web, "R"), "3")
	b.want("ACK after RST", b.send(lb.TCP, src, web, "A"), "3")
	b.want("SYN after RST", b.send(lb.TCP, src, web, "S"), "2")
}
