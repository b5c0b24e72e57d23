package xdp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// What comes by the wire with an address of this host as its source is a
// martian, as for the kernel (fib_validate_source): it is not scheduled, not
// counted, and not answered.
func TestMartianSources(t *testing.T) {
	other := other()
	s := lb.State{Services: []lb.Service{webService(1), other}}
	h := serving(t, s)
	own := netip.MustParseAddr("10.0.0.1")
	h.dp.Interfaces[0].Own[0] = bpf.AddressOf(own)
	elsewhere := other.Listeners[0].Addr
	from := func(a netip.Addr, proto lb.Protocol) []byte {
		p := syn(proto)
		p.Src = netip.AddrPortFrom(a, 40000)
		return frame(p)
	}
	for _, a := range []netip.Addr{own, vip, elsewhere, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.1")} {
		t.Log(a)
		h.want(from(a, lb.TCP), "martian", pass)
		e := icmpErrorOf(3, 4, endpoints{lb.TCP, client, web}, 0)
		from4 := a.As4()
		copy(e[26:], from4[:])
		binary.BigEndian.PutUint16(e[24:], ipSum(e[14:34]))
		h.want(e, "martian", pass)
	}
	if active, inactive := h.liveConnections(h.services["web"].reals[netip.AddrPortFrom(realN(1), 0)].slot); active != 0 || inactive != 0 {
		t.Errorf("martians count as connections: %d active, %d inactive", active, inactive)
	}
	// Another director's VIP is a client like others.
	s.VIPs = []lb.VIP{{Addr: elsewhere, Owner: "VI_1", Standby: true}}
	h.apply(s)
	h.want(from(elsewhere, lb.TCP), "forwarded", tx)
}

// A packet that is too long for the way out is answered in generic mode as in
// native mode; what is longer than the interface itself takes is several
// packets in one, and is cut up again.
func TestGenericModeAnswersTooLong(t *testing.T) {
	h := newHarness(t, 1024, 1024)
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): {MAC: [6]byte{2, 0, 10, 0, 0, 11}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1280}}
	h.apply(lb.State{Services: []lb.Service{webService(1)}})
	h.want(frame(syn(lb.TCP)), "forwarded", tx)
	long := func(payload int, df bool) []byte {
		p := syn(lb.TCP)
		p.Flags = "A"
		f := frameOf(p, payload)
		if df {
			f[20] = 0x40
		}
		binary.BigEndian.PutUint16(f[24:], ipSum(f[14:34]))
		return f
	}
	for _, mode := range []bpf.AttachMode{bpf.ModeNative, bpf.ModeGeneric} {
		h.dp.Interfaces[0].Mode = mode
		h.want(long(1240, true), "forwarded", tx) // 1280 with its headers
		h.want(long(1241, true), "answered_too_big", tx)
		h.want(long(1460, true), "answered_too_big", tx)
		h.want(long(1460, false), "too_big", drop)
	}
	h.want(long(1461, true), "forwarded", tx)
	h.want(long(3000, false), "forwarded", tx)
}

// A real that is out only because it has not been checked yet keeps its
// connections waiting; one that its check has taken out does not.
func TestUncheckedRealsConnectionsWait(t *testing.T) {
	s := lb.State{Services: []lb.Service{webService(2)}, ExpireNodestConn: true}
	h := serving(t, s)
	p := syn(lb.TCP)
	first := h.Send(p).Real
	p.Flags = "A"
	data := frame(p)
	h.want(data, "forwarded", tx)
	out := func(unchecked bool) { h.applyWithout(s, first, unchecked) }
	out(true)
	h.want(data, "real_away", drop)
	h.apply(lb.State{Services: []lb.Service{webService(2)}, ExpireNodestConn: true})
	h.want(data, "forwarded", tx) // checked, and up: it goes on
	out(true)
	h.want(data, "real_away", drop)
	out(false) // checked, and down
	h.want(data, "real_gone", pass)
	out(true)
	p.Flags = "S"
	h.want(frame(p), "forwarded", tx) // a new connection goes to another one
}

// applyWithout applies s with one of its first service's reals out: because no
// check has asked it yet, or because its check says that it is down.
func (h *harness) applyWithout(s lb.State, real netip.Addr, unchecked bool) {
	h.t.Helper()
	s = s.Clone()
	svc := &s.Services[0]
	svc.Reals, svc.Absent = nil, nil
	for _, r := range webService(2).Reals {
		if r.Addr == real {
			r.Unchecked = unchecked
			svc.Absent = append(svc.Absent, r)
		} else {
			svc.Reals = append(svc.Reals, r)
		}
	}
	h.apply(s)
}

// What a predecessor said of an unchecked real ends when the successor's check
// has taken the real out.
func TestUncheckedRealOfAPredecessor(t *testing.T) {
	s := lb.State{Services: []lb.Service{webService(2)}, ExpireNodestConn: true}
	h := newHarness(t, 1024, 1024)
	h.apply(s)
	p := syn(lb.TCP)
	first := h.Send(p).Real
	p.Flags = "A"
	out := func(unchecked bool) { h.applyWithout(s, first, unchecked) }
	out(true)
	h.want(frame(p), "real_away", drop)
	h.succeed()
	out(true)
	h.want(frame(p), "real_away", drop)
	h.succeed()
	out(false)
	h.want(frame(p), "real_gone", pass)
}

// A service none of whose reals, nor its sorry server, can be used yet, because they
// are being looked for or have not been checked, answers nobody: clients ask again. Once it is
// known that none can be used they are told so.
func TestFault29NobodyIsToldTooEarly(t *testing.T) {
	h := newHarness(t, 1024, 1024)
	state := func(edit func(svc *lb.Service)) lb.State {
		svc := webService(2)
		edit(&svc)
		return lb.State{Services: []lb.Service{svc}}
	}
	port := uint16(40000)
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		first := syn(proto)
		for name, c := range map[string]struct {
			hosts string // "known", "looked for", "silent"
			edit  func(svc *lb.Service)
			want  string
		}{
			"looked for": {"looked for", func(*lb.Service) {}, "no_real"},
			"silent":     {"silent", func(*lb.Service) {}, "answered_unreachable"},
			"one unchecked, one down": {"known", func(svc *lb.Service) {
				svc.Absent, svc.Reals = svc.Reals, nil
				svc.Absent[0].Unchecked = true
			}, "no_real"},
			"both down":            {"known", func(svc *lb.Service) { svc.Absent, svc.Reals = svc.Reals, nil }, "answered_unreachable"},
			"sorry looked for":     {"looked for", func(svc *lb.Service) { svc.Reals, svc.Sorry = nil, realN(3) }, "no_real"},
			"sorry silent":         {"silent", func(svc *lb.Service) { svc.Reals, svc.Sorry = nil, realN(3) }, "answered_unreachable"},
			"looked for, weight 0": {"looked for", func(svc *lb.Service) { svc.Reals[0].Weight, svc.Reals[1].Weight = 0, 0 }, "answered_unreachable"},
			"unchecked, beside one": {"known", func(svc *lb.Service) {
				svc.Absent, svc.Reals = []lb.Real{svc.Reals[0]}, svc.Reals[1:]
				svc.Absent[0].Unchecked = true
			}, "forwarded"},
		} {
			h.net.asking, h.net.silent = c.hosts == "looked for", map[netip.Addr]string{}
			if c.hosts == "silent" {
				h.net.silent = map[netip.Addr]string{realN(1): "no answer", realN(2): "no answer", realN(3): "no answer"}
			}
			t.Log(proto, name)
			h.apply(lb.State{})
			h.apply(state(c.edit))
			port++
			first.Src = netip.AddrPortFrom(first.Src.Addr(), port)
			action := map[string]uint32{"no_real": drop, "answered_unreachable": tx, "forwarded": tx}[c.want]
			h.want(frame(first), c.want, action)
		}
	}
}
