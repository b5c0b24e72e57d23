package judge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// endpoints are a connection's.
type endpoints struct {
	proto    lb.Protocol
	src, dst netip.AddrPort
}

func (e endpoints) String() string {
	return fmt.Sprintf("%s %s > %s", e.proto, e.src, e.dst)
}

// packet sends one packet, or an ICMP error that quotes one.
func (t *trial) packet() error {
	e := t.drawEndpoints()
	for t.muted[e] || t.strays[e] || t.isUnbound(e) {
		e = t.drawEndpoints()
	}
	if from, ok := t.serverOf(e); ok && chance(t.rnd, 3) {
		t.report.Events["from a real"]++
		e.src, e.dst = from, e.src
	}
	p := onearm.Packet{
		Src: e.src, Dst: e.dst, UDP: e.proto == lb.UDP, Payload: make([]byte, t.rnd.IntN(3)*t.rnd.IntN(60)),
		Flags: pick(t.rnd, "S", "S", "S", "A", "A", "A", "A", "PA", "FA", "F", "R", "RA", "SA", "SF", ""),
		TTL:   pick[uint8](t.rnd, 64, 64, 64, 64, 64, 64, 2, 255, 1),
	}
	if e.dst.Addr().Is6() {
		return t.packet6(e, p)
	}
	if chance(t.rnd, 15) && !t.away[e] && !t.goesByRing(e) {
		kind, code := pick(t.rnd, [2]byte{3, 1}, [2]byte{3, 3}, [2]byte{3, 4}, [2]byte{11, 0}, [2]byte{5, 1}, [2]byte{4, 0}, [2]byte{8, 0}), byte(0)
		kind[1], code = kind[1]+code, kind[1]
		return t.both(fmt.Sprintf("ICMP %d/%d about %s, TTL %d", kind[0], code, e, p.TTL), e, icmpAbout(e, kind[0], code, p.TTL))
	}
	return t.send(e, p)
}

// packet6 varies what a packet of IPv6 has in front of its ports.
func (t *trial) packet6(e endpoints, p onearm.Packet) error {
	switch n := t.rnd.IntN(30); {
	case n < 2 && !t.away[e] && !t.goesByRing(e):
		kind := pick(t.rnd, [2]byte{1, 0}, [2]byte{1, 4}, [2]byte{2, 0}, [2]byte{3, 0}, [2]byte{4, 1}, [2]byte{128, 0}, [2]byte{129, 0})
		return t.both(fmt.Sprintf("ICMPv6 %d/%d about %s, hop limit %d", kind[0], kind[1], e, p.TTL), e, icmpAbout6(e, kind[0], kind[1], p.TTL))
	case n < 4 && !t.mayTunnel(e):
		p.TTL, p.Payload = 64, make([]byte, 100+t.rnd.IntN(100))
		return t.sendAs(e, p, "in fragments", func(frame []byte) [][]byte { return fragments6(frame, t.rnd.Uint32()) })
	case n < 10:
		kinds := pick(t.rnd, extensionChains...)
		if t.isOfMark(e) && slices.Contains(kinds, protoAuth) {
			kinds = []byte{60}
		}
		return t.sendAs(e, p, fmt.Sprintf("behind headers %d", kinds), func(frame []byte) [][]byte { return [][]byte{behindHeaders(frame, kinds)} })
	}
	return t.send(e, p)
}

// mayTunnel reports whether a packet of IPv6 may go by tunnel: of a datagram in
// fragments the kernel carries the whole, in fragments of its own.
func (t *trial) mayTunnel(e endpoints) bool {
	return slices.ContainsFunc(t.files, func(f file) bool {
		return slices.ContainsFunc(f.Listeners, func(l lb.Listener) bool { return l.Addr == e.dst.Addr() }) &&
			slices.ContainsFunc(f.Reals, func(r lb.Real) bool { return r.Forward == lb.Tunnel })
	})
}

// isOfMark reports whether a packet may get a mark: the kernel's nftables finds
// no ports behind an authentication header, and marks nothing.
func (t *trial) isOfMark(e endpoints) bool {
	return slices.ContainsFunc(t.state.Services, func(s lb.Service) bool {
		return s.ByMark() && slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool {
			return l.Proto == e.proto && l.Addr == e.dst.Addr() && l.Contains(e.dst.Port())
		})
	})
}

// extensionChains are extension headers, in the order in which they stand: only
// the first may be a hop-by-hop header (0), the others are routing (43),
// authentication (51) and destination options (60).
var extensionChains = [][]byte{
	{0}, {43}, {51}, {60}, {60}, {0, 60}, {0, 43, 51}, {60, 43, 60}, {0, 60, 43, 51, 60, 60, 60, 60},
}

// serverOf is where a connection's packets went last, as its real may answer.
// Where the client has two of one port of the real, nothing tells the answers
// apart: the kernel takes the newest, lvx any.
func (t *trial) serverOf(e endpoints) (netip.AddrPort, bool) {
	to, ok := t.servers[e]
	for other, at := range t.servers {
		ok = ok && (other == e || other.proto != e.proto || other.src != e.src || at != to)
	}
	return to, ok
}

// goesByRing reports whether lvx brings an ICMP error about a connection that
// it does not have to the real that the ring names, as another director may
// have the connection. The kernel keeps such an error for itself.
func (t *trial) goesByRing(e endpoints) bool {
	return slices.ContainsFunc(t.state.Services, func(s lb.Service) bool {
		hashes := slices.Contains([]lb.Scheduler{lb.SH, lb.DH, lb.MH}, s.Scheduler) && !s.Persistence.Enabled()
		return hashes && (e.proto == lb.UDP || t.state.SloppyTCP) && slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool {
			return l.Proto == e.proto && l.Addr == e.dst.Addr() && l.Contains(e.dst.Port())
		})
	})
}

// send sends a packet to both sides.
func (t *trial) send(e endpoints, p onearm.Packet) error {
	return t.sendAs(e, p, "", func(frame []byte) [][]byte { return [][]byte{frame} })
}

// sendAs sends what is made of a packet's frame.
func (t *trial) sendAs(e endpoints, p onearm.Packet, how string, framesOf func([]byte) [][]byte) error {
	frame, err := p.Bytes()
	if err != nil {
		return err
	}
	if !p.UDP && strings.Contains(p.Flags, "S") {
		// A connection that makes way for a new one ends with the next jiffy,
		// and counts until then.
		defer t.sleep(2 * jiffy)
	}
	return t.both(fmt.Sprintf("%s %q, %d bytes, TTL %d %s", e, p.Flags, len(p.Payload), p.TTL, how), e, framesOf(frame)...)
}

// both sends frames to both sides and compares what comes back.
func (t *trial) both(what string, e endpoints, frames ...[]byte) error {
	if n := realNumber(e.src.Addr()); n > 0 {
		for _, frame := range frames {
			copy(frame[6:], onearm.RealMAC(n))
		}
	}
	want, err := t.kernel.send(frames...)
	if err != nil {
		return err
	}
	got, err := t.xdp.send(frames...)
	if err != nil {
		return err
	}
	t.say("%s: %s", what, want.name)
	t.report.Outcomes[want.kind]++
	if want.to.IsValid() {
		t.servers[e] = want.to
	}
	if want.isAnswer && len(frames) > 1 && got.kind == want.kind {
		got.bytes = want.bytes // the kernel quotes the whole datagram, lvx its first fragment
	}
	if got.bytes != want.bytes {
		return fmt.Errorf("%s: lvx %s, kernel %s\nlvx    %x\nkernel %x", what, got.name, want.name, got.bytes, want.bytes)
	}
	if want.kind == "ICMP 3/3" || want.kind == "ICMPv6 1/4" {
		return t.leaveWithoutTemplate()
	}
	if want.carried != nil && got.carried != nil && len(frames) == 1 && chance(t.rnd, 8) {
		return t.routerSays(e, want.carried, got.carried)
	}
	return nil
}

// An outcome is what a side sent because of a packet.
type outcome struct {
	name     string // "rs3", "RST", "ICMP 3/3", "nothing", or several
	kind     string // the name without a number
	bytes    string // all frames
	real     int
	isAnswer bool           // of the director's own, by ICMP
	to       netip.AddrPort // a real's, with the port that it is asked at
	carried  []byte         // the frame that went through a tunnel, if one did
}

func (s *side) send(frames ...[]byte) (outcome, error) {
	o := outcome{name: "nothing", kind: "nothing"}
	var seen []onearm.Seen
	if len(frames) == 0 {
		var err error
		if seen, err = s.net.Finish(); err != nil {
			return o, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for _, frame := range frames {
		some, err := s.net.SendFrame(frame)
		if err == nil && len(some) == 0 {
			some, err = s.net.Finish()
		}
		if err != nil {
			return o, fmt.Errorf("%s: %w", s.name, err)
		}
		seen = append(seen, some...)
	}
	for i, f := range seen {
		one := nameOf(f)
		o.kind, o.real, o.isAnswer = one, f.Real, f.Real == 0 && strings.HasPrefix(one, "ICMP")
		if f.Real != 0 {
			o.kind, o.to, o.carried = "real", serverAt(f), carriedIn(f)
		}
		if i > 0 {
			one = o.name + ", " + one
		}
		o.name = one
		o.bytes += string(comparable(f)) + "|"
	}
	return o, nil
}

// drawEndpoints: mostly those of a packet that was sent before.
func (t *trial) drawEndpoints() endpoints {
	if len(t.pool) > 0 && !chance(t.rnd, 5) {
		return pick(t.rnd, t.pool...)
	}
	e := endpoints{proto: pick(t.rnd, lb.TCP, lb.TCP, lb.UDP)}
	of := pick(t.rnd, ipv4, ipv6)
	e.dst = netip.AddrPortFrom(pick(t.rnd, of.vips...), pick[uint16](t.rnd, 80, 443, 53, 8000, 8007, 8020, 8021, 22, 65535))
	if len(t.files) > 0 && !chance(t.rnd, 10) {
		f := pick(t.rnd, t.files...)
		of = f.family
		l := pick(t.rnd, f.Listeners...)
		e.proto, e.dst = l.Proto, netip.AddrPortFrom(l.Addr, l.Last)
		if l.EveryPort() {
			e.dst = netip.AddrPortFrom(l.Addr, pick[uint16](t.rnd, 80, 443, 22, 9999))
		}
	}
	e.src = netip.AddrPortFrom(pick(t.rnd, of.clients...), pick[uint16](t.rnd, 40000, 40001, 40002, 40003))
	if t.pool = append(t.pool, e); len(t.pool) > 24 {
		t.pool = t.pool[1:]
	}
	return e
}
