package lbtest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// persistent is a service with three reals and a template per client
// (recording 08-persistence).
func persistent(prefix int) lb.Service {
	svc := service(lb.RR, reals(1, 1, 1)...)
	svc.Persistence = lb.Persistence{Timeout: 60 * time.Second, Prefix: prefix}
	return svc
}

// visit opens one connection from the client and gives its server.
func (b *bench) visit(client string, dst netip.AddrPort) string {
	return b.send(lb.TCP, b.from(netip.MustParseAddr(client)), dst, "S")
}

func persistClient(b *bench) {
	b.apply(state(persistent(0)))
	b.want("first visits", b.visit("172.16.0.5", web)+b.visit("172.16.0.5", web)+
		b.visit("172.16.0.6", web)+b.visit("172.16.0.7", web)+b.visit("172.16.0.8", web), "33213")
	b.want("later visits", b.visit("172.16.0.7", web)+b.visit("172.16.0.6", web)+b.visit("172.16.0.5", web), "123")
}

func persistMask(b *bench) {
	b.apply(state(persistent(24)))
	b.want("one network", b.visit("172.16.0.5", web)+b.visit("172.16.0.77", web)+b.visit("172.16.0.200", web), "333")
	b.want("other networks", b.visit("172.16.1.5", web)+b.visit("172.16.2.5", web), "21")
}

// persistQuiesced: a client with a template still gets a quiesced real,
// unless expire_quiescent_template says otherwise (recording
// 07-quiesce-delete, case 6).
func persistQuiesced(b *bench) {
	svc := persistent(0)
	b.apply(state(svc))
	b.want("first visit", b.visit("172.16.0.5", web), "3")
	svc.Reals = reals(1, 1, 0)
	b.apply(state(svc))
	b.want("same client", b.visit("172.16.0.5", web), "3")
	b.want("other client", b.visit("172.16.0.6", web), "2")

	s := state(svc)
	s.ExpireQuiescentTempl = true
	b.apply(s)
	if got := b.visit("172.16.0.5", web); got != "1" && got != "2" {
		b.Errorf("same client with expire_quiescent_template: got %s", got)
	}
}

func persistGroup(b *bench) {
	svc := persistent(0)
	svc.Mark = 10
	svc.Listeners = []lb.Listener{tcp(vip, 80, 80), tcp(vip, 443, 443)}
	b.apply(state(svc))
	tls := netip.AddrPortFrom(vip, 443)
	b.want("one client, both ports", b.visit("172.16.0.5", web)+b.visit("172.16.0.5", tls), "33")
	b.want("another", b.visit("172.16.0.6", tls)+b.visit("172.16.0.6", web), "22")
}

// unbound is only for backends that say whom persistence binds: a client that is
// let go gets another real with its next connection, the others keep theirs.
func unbound(b *bench) {
	binder, ok := b.h.(lb.Binder)
	if !ok {
		b.Log("not a Binder: nothing to test")
		return
	}
	svc := persistent(0)
	b.apply(state(svc))
	b.want("first visits", b.visit("172.16.0.5", web)+b.visit("172.16.0.6", web)+b.visit("172.16.0.7", web)+b.visit("172.16.0.8", web), "3213")
	svc.Reals = reals(1, 1, 0)
	b.apply(state(svc))
	bound := func(want string) {
		b.Helper()
		clients, n, err := binder.Bound("web", server(3, 1).Key(), 8)
		slices.SortFunc(clients, netip.Prefix.Compare)
		if err != nil {
			b.Fatal(err)
		}
		b.want("bound to the third", fmt.Sprint(clients, n), want)
	}
	bound("[172.16.0.5/32 172.16.0.8/32] 2")
	if clients, n, err := binder.Bound("web", server(3, 1).Key(), 1); len(clients) != 1 || n != 2 || err != nil {
		b.Errorf("at most one of two: %v, %d, %v", clients, n, err)
	}
	ended, err := binder.Unbind("web", server(3, 1).Key())
	if errors.Is(err, errors.ErrUnsupported) {
		b.want("they come back", b.visit("172.16.0.5", web), "3")
		return
	}
	if err != nil || ended != 2 {
		b.Errorf("%d clients let go, %v; want 2", ended, err)
	}
	bound("[] 0")
	if got := b.visit("172.16.0.5", web); got != "1" && got != "2" {
		b.Errorf("a client that was let go is led to %s", got)
	}
	b.want("the others", b.visit("172.16.0.6", web)+b.visit("172.16.0.7", web), "21")
}
