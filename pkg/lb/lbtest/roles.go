package lbtest

import (
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func noReal(b *bench) {
	b.apply(state(service(lb.RR)))
	b.want("no real at all", b.conns(2, web), "- -")
	b.apply(state(service(lb.RR, reals(0, 0)...)))
	b.want("all quiesced", b.conns(2, web), "- -")
	b.apply(state(service(lb.RR, reals(0, 1)...)))
	b.want("one is back", b.conns(2, web), "2 2")
}

func sorry(b *bench) {
	svc := service(lb.RR, reals(1, 1)...)
	svc.Sorry = sorryIP
	b.apply(state(svc))
	src, to := b.established(client, web)
	b.want("while reals are usable", to, "2")
	svc.Reals = reals(0, 0)
	b.apply(state(svc))
	b.want("all quiesced", b.conns(2, web), "s s")
	b.want("a quiesced real's connection", b.send(lb.TCP, src, web, "A"), "2")
	svc.Reals = nil
	b.apply(state(svc))
	b.want("no real at all", b.conns(2, web), "s s")
	svc.Reals = reals(1, 1)
	b.apply(state(svc))
	b.want("reals are back", b.conns(2, web), "2 1")
}

// sorryReal: the sorry server may be one of the reals, which then answers
// whatever its weight, as far as no real is usable.
func sorryReal(b *bench) {
	svc := service(lb.RR, reals(1, 0)...)
	svc.Sorry = reals(0, 0)[1].Addr
	b.apply(state(svc))
	b.want("while another real is usable", b.conns(2, web), "1 1")
	svc.Reals = reals(0, 0)
	b.apply(state(svc))
	b.want("all quiesced", b.conns(2, web), "2 2")
	svc.Reals = nil
	b.apply(state(svc))
	b.want("no real at all", b.conns(2, web), "2 2")
	svc.Reals = reals(1, 1)
	b.apply(state(svc))
	b.want("both are reals", b.conns(4, web), "2 1 2 1")
}

// acl: the longest matching prefix decides; with an allow list, who is not
// on it is denied.
func acl(b *bench) {
	visit := func(c string) string { return b.visit(c, web) }
	svc := service(lb.RR, reals(1)...)
	svc.Deny = []netip.Prefix{netip.MustParsePrefix("172.16.1.0/24")}
	b.apply(state(svc))
	b.want("deny", visit("172.16.0.1")+visit("172.16.1.1"), "1-")

	svc.Allow = []netip.Prefix{netip.MustParsePrefix("172.16.1.7/32"), netip.MustParsePrefix("172.16.2.0/24")}
	b.apply(state(svc))
	b.want("deny and allow", visit("172.16.0.1")+visit("172.16.1.1")+visit("172.16.1.7")+visit("172.16.2.1"), "--11")

	svc.Deny, svc.Allow = nil, nil
	s := state(svc)
	s.Deny = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/24")}
	b.apply(s)
	b.want("deny for all services", visit("172.16.0.1")+visit("172.16.1.1"), "-1")
	b.apply(state(svc))
	b.want("lifted", visit("172.16.0.1")+visit("172.16.1.1"), "11")
}

func standby(b *bench) {
	other := service(lb.RR, reals(1)...)
	other.Name, other.Listeners = "other", []lb.Listener{tcp(netip.MustParseAddr("10.0.0.101"), 80, 80)}
	s := state(service(lb.RR, reals(1, 1)...), other)
	s.VIPs = []lb.VIP{{Addr: vip, Standby: true}}
	b.apply(s)
	b.want("standby VIP", b.conns(2, web), "- -")
	b.want("own VIP", b.conns(1, netip.MustParseAddrPort("10.0.0.101:80")), "1")
	s.VIPs = nil
	b.apply(s)
	b.want("after the takeover", b.conns(2, web), "2 1")
}

// switching is only for backends that change roles without an Apply.
func switching(b *bench) {
	switcher, ok := b.h.(lb.Switcher)
	if !ok {
		b.Log("not a Switcher: nothing to test")
		return
	}
	if err := switcher.Switch(nil); err == nil {
		b.Error("roles changed before there was a state")
	}
	otherVIP := netip.MustParseAddr("10.0.0.101")
	other := service(lb.RR, reals(1)...)
	other.Name, other.Listeners = "other", []lb.Listener{tcp(otherVIP, 80, 80)}
	s := state(service(lb.RR, reals(1, 1)...), other)
	standby := func(addrs ...netip.Addr) (vips []lb.VIP) {
		for _, a := range []netip.Addr{vip, otherVIP} {
			vips = append(vips, lb.VIP{Addr: a, Owner: "VI_1", Standby: slices.Contains(addrs, a)})
		}
		return vips
	}
	s.VIPs = standby(vip)
	b.apply(s)
	b.want("standby VIP", b.conns(1, web), "-")
	if err := switcher.Switch(standby(otherVIP)); err != nil {
		b.Logf("it needs an Apply: %v", err)
		b.want("and nothing has changed", b.conns(1, web), "-")
		return
	}
	b.want("after the takeover", b.conns(2, web), "2 1")
	b.want("the VIP that went", b.conns(1, netip.AddrPortFrom(otherVIP, 80)), "-")
	b.apply(s)
	b.want("an Apply has the last word", b.conns(1, web), "-")
	if err := switcher.Switch(standby()); err != nil {
		b.Fatal(err)
	}
	b.want("no VIP is standby", b.conns(1, web)+b.conns(1, netip.AddrPortFrom(otherVIP, 80)), "21")
}

// lease is only for backends that can go silent by themselves.
func lease(b *bench) {
	leaser, ok := b.h.(lb.Leaser)
	if !ok {
		b.Log("not a Leaser: nothing to test")
		return
	}
	renew := func(d time.Duration) {
		b.Helper()
		if err := leaser.Renew(3, d); err != nil {
			b.Fatal(err)
		}
	}
	s := state(service(lb.RR, reals(1, 1)...))
	s.VIPs = []lb.VIP{{Addr: vip, Owner: "VI_1", Leased: true, Lease: 3}}
	b.apply(s)
	b.want("before the first renewal", b.conns(1, web), "-")
	renew(time.Hour)
	if left := leaser.LeaseLeft(3); left <= 59*time.Minute || left > time.Hour+time.Minute {
		b.Errorf("%v left of a lease of an hour", left)
	}
	b.want("while it lasts", b.conns(2, web), "2 1")
	b.apply(s)
	b.want("after the same state again", b.conns(1, web), "2")
	renew(-1)
	b.want("after its end", b.conns(1, web), "-")
	if left := leaser.LeaseLeft(3); left != 0 {
		b.Errorf("%v left of a lease that is over", left)
	}
	renew(time.Hour)
	s.VIPs = []lb.VIP{{Addr: vip, Owner: "VI_1", Standby: true, Leased: true, Lease: 3}}
	b.apply(s)
	b.want("a lease is no way around standby", b.conns(1, web), "-")
}
