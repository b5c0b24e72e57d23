package main

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// consecutive gives the nth address after a.
func consecutive(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}

func listener(vip netip.Addr, proto lb.Protocol, port uint16) lb.Listener {
	return lb.Listener{Addr: vip, Proto: proto, First: port, Last: port}
}

// services makes a state of n services on consecutive VIPs, port 80, each
// with so many reals.
func services(n, reals int) lb.State {
	var s lb.State
	for i := range n {
		svc := lb.Service{
			Name: consecutive(firstVIP, i).String(), Scheduler: lb.RR,
			Listeners: []lb.Listener{listener(consecutive(firstVIP, i), lb.TCP, 80)},
		}
		for j := range reals {
			svc.Reals = append(svc.Reals, lb.Real{Addr: consecutive(firstReal, i*reals+j), Weight: 1})
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// service6 is a state of one service of IPv6 on port 80 of TCP and UDP.
func service6(reals int) lb.State {
	svc := lb.Service{
		Name: "six", Scheduler: lb.RR, Mark: 6,
		Listeners: []lb.Listener{listener(firstVIP6, lb.TCP, 80), listener(firstVIP6, lb.UDP, 80)},
	}
	real := netip.MustParseAddr("2001:db8:242::")
	for range reals {
		real = real.Next()
		svc.Reals = append(svc.Reals, lb.Real{Addr: real, Weight: 1})
	}
	return lb.State{Services: []lb.Service{svc}}
}

// with changes the first service of a state.
func with(s lb.State, change func(*lb.Service)) lb.State {
	change(&s.Services[0])
	return s
}

func byHash(svc *lb.Service) { svc.Scheduler, svc.Flags = lb.MH, lb.MHPort }

// stateless is another service than those of before: behind a state without
// services its rows are settled at once.
func stateless(svc *lb.Service) {
	byHash(svc)
	svc.Name, svc.Stateless = "stateless", true
}

func persistent(svc *lb.Service) { svc.Persistence = lb.Persistence{Timeout: 360 * time.Second} }

// both is one service on ports 80 and 443, persistent as a whole.
func both(svc *lb.Service) {
	persistent(svc)
	svc.Listeners = append(svc.Listeners, listener(firstVIP, lb.TCP, 443))
	svc.Mark = 1
}

// everyPort is one service on every port of TCP and UDP, persistent.
func everyPort(svc *lb.Service) {
	persistent(svc)
	svc.Listeners = []lb.Listener{listener(firstVIP, lb.TCP, 0), listener(firstVIP, lb.UDP, 0)}
}

// alsoUDP has the service take UDP on port 80.
func alsoUDP(svc *lb.Service) {
	svc.Listeners = append(svc.Listeners, listener(firstVIP, lb.UDP, 80))
	svc.Mark = 1
}

// denying gives the service a deny list that the clients are not on.
func denying(prefixes int) func(*lb.Service) {
	return func(svc *lb.Service) {
		for i := range prefixes {
			svc.Deny = append(svc.Deny, netip.PrefixFrom(consecutive(netip.MustParseAddr("172.16.0.0"), i), 32))
		}
	}
}

// forget empties the flow table.
func (r *rig) forget() error {
	clear(r.dp.Shares)
	return r.dp.EmptyFlows()
}

// forgetTemplates empties the template table as well.
func (r *rig) forgetTemplates() error {
	clear(r.dp.Templates)
	return r.forget()
}

// walk sends every one of n flows of t one packet.
func (r *rig) walk(to *ebpf.Program, t traffic, n int) error {
	t = t.from(0)
	_, _, err := r.run(to, &t, n)
	return err
}

// establish opens n connections of t in lvx: SYN, ACK, and data, so that
// they are proven.
func (r *rig) establish(t traffic, n int) error {
	for _, flags := range []byte{syn, ack, ack} {
		t.Frame = frame(t.Frame).with(flags)
		if err := r.walk(r.prog, t, n); err != nil {
			return err
		}
	}
	return nil
}

// fillFloor puts n flows of t into floor B's table.
func (r *rig) fillFloor(t traffic, n int) error {
	if frame(t.Frame).isIPv6() {
		return r.walk(r.raw.StoreB6, t, n)
	}
	return r.walk(r.raw.StoreB, t, n)
}
