package judge

import (
	"encoding/binary"
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
	for t.muted[e] || t.strays[e] {
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
	if chance(t.rnd, 15) && !t.away[e] && !t.goesByRing(e) {
		kind, code := pick(t.rnd, [2]byte{3, 1}, [2]byte{3, 3}, [2]byte{3, 4}, [2]byte{11, 0}, [2]byte{5, 1}, [2]byte{4, 0}, [2]byte{8, 0}), byte(0)
		kind[1], code = kind[1]+code, kind[1]
		return t.both(fmt.Sprintf("ICMP %d/%d about %s, TTL %d", kind[0], code, e, p.TTL), e, icmpAbout(e, kind[0], code, p.TTL))
	}
	return t.send(e, p)
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
	frame, err := p.Bytes()
	if err != nil {
		return err
	}
	if !p.UDP && strings.Contains(p.Flags, "S") {
		// A connection that makes way for a new one ends with the next jiffy,
		// and counts until then.
		defer t.sleep(2 * jiffy)
	}
	return t.both(fmt.Sprintf("%s %q, %d bytes, TTL %d", e, p.Flags, len(p.Payload), p.TTL), e, frame)
}

// both sends a frame to both sides and compares what comes back.
func (t *trial) both(what string, e endpoints, frame []byte) error {
	for n := 1; n <= onearm.Reals; n++ {
		if onearm.Real(n) == e.src.Addr() {
			copy(frame[6:], onearm.RealMAC(n))
		}
	}
	want, err := t.kernel.send(frame)
	if err != nil {
		return err
	}
	got, err := t.xdp.send(frame)
	if err != nil {
		return err
	}
	t.say("%s: %s", what, want.name)
	t.report.Outcomes[want.kind]++
	if want.to.IsValid() {
		t.servers[e] = want.to
	}
	if got.bytes != want.bytes {
		return fmt.Errorf("%s: lvx %s, kernel %s\nlvx    %x\nkernel %x", what, got.name, want.name, got.bytes, want.bytes)
	}
	if want.kind == "ICMP 3/3" {
		return t.leaveWithoutTemplate()
	}
	return nil
}

// An outcome is what a side sent because of a packet.
type outcome struct {
	name  string // "rs3", "RST", "ICMP 3/3", "nothing", or several
	kind  string // the name without a number
	bytes string // all frames
	real  int
	to    netip.AddrPort // a real's, with the port that it is asked at
}

func (s *side) send(frame []byte) (outcome, error) {
	o := outcome{name: "nothing", kind: "nothing"}
	seen, err := s.net.SendFrame(frame)
	if err != nil {
		return o, fmt.Errorf("%s: %w", s.name, err)
	}
	if len(seen) == 0 {
		if seen, err = s.net.Finish(); err != nil {
			return o, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for i, f := range seen {
		one := nameOf(f)
		o.kind, o.real = one, f.Real
		if f.Real != 0 {
			o.kind, o.to = "real", serverAt(f)
		}
		if i > 0 {
			one = o.name + ", " + one
		}
		o.name = one
		o.bytes += string(comparable(f)) + "|"
	}
	return o, nil
}

// serverAt is where a packet reaches a real, through a tunnel too: by direct
// routing it is for the VIP's port.
func serverAt(f onearm.Seen) netip.AddrPort {
	b := f.Frame.Data()[14:]
	if b[9] == protoIPIP {
		b = b[20:]
	}
	if b[9] != byte(lb.TCP) && b[9] != byte(lb.UDP) {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(onearm.Real(f.Real), binary.BigEndian.Uint16(b[22:]))
}

const protoIPIP = 4

// comparable is a frame without what means nothing: padding, which the kernel
// takes off, and the identification of what the director sends itself, once
// its checksum was found right.
func comparable(f onearm.Seen) []byte {
	b := f.Frame.Data()
	if len(b) >= 34 && b[12] == 8 && b[13] == 0 {
		b = b[:min(len(b), 14+int(binary.BigEndian.Uint16(b[16:])))]
	}
	// What a tunnel carries may be fragmented if it has no DF: its identification is any number.
	isOuter := len(b) >= 34 && b[23] == protoIPIP && b[20]&0x40 == 0
	isAnswer := f.Real == 0 || isOuter || len(b) >= 34 && b[23] == 1 && netip.AddrFrom4([4]byte(b[26:30])) == onearm.Director
	if !isAnswer || len(b) < 34 || ipChecksum(b[14:34]) != 0 {
		return b
	}
	b[18], b[19], b[24], b[25] = 0, 0, 0, 0
	return b
}

func nameOf(f onearm.Seen) string {
	b := f.Frame.Data()
	switch {
	case f.Real != 0:
		return fmt.Sprintf("rs%d", f.Real)
	case len(b) > 35 && b[23] == 1:
		return fmt.Sprintf("ICMP %d/%d", b[34], b[35])
	case len(b) > 47 && b[23] == 6 && b[47]&4 != 0:
		return "RST"
	}
	return "frame"
}

// drawEndpoints: mostly those of a packet that was sent before.
func (t *trial) drawEndpoints() endpoints {
	if len(t.pool) > 0 && !chance(t.rnd, 5) {
		return pick(t.rnd, t.pool...)
	}
	e := endpoints{proto: pick(t.rnd, lb.TCP, lb.TCP, lb.UDP)}
	e.src = netip.AddrPortFrom(pick(t.rnd, clients...), pick[uint16](t.rnd, 40000, 40001, 40002, 40003))
	e.dst = netip.AddrPortFrom(pick(t.rnd, vips...), pick[uint16](t.rnd, 80, 443, 53, 8000, 8007, 8020, 8021, 22, 65535))
	if len(t.files) > 0 && !chance(t.rnd, 10) {
		l := pick(t.rnd, pick(t.rnd, t.files...).Listeners...)
		e.proto, e.dst = l.Proto, netip.AddrPortFrom(l.Addr, l.Last)
		if l.EveryPort() {
			e.dst = netip.AddrPortFrom(l.Addr, pick[uint16](t.rnd, 80, 443, 22, 9999))
		}
	}
	if t.pool = append(t.pool, e); len(t.pool) > 24 {
		t.pool = t.pool[1:]
	}
	return e
}

// icmpAbout is an ICMP message to the VIP that quotes a reply from it.
func icmpAbout(e endpoints, kind, code, ttl byte) []byte {
	quoted := make([]byte, 20+8)
	ipHeader(quoted, byte(e.proto), 60, 64, e.dst.Addr(), e.src.Addr())
	binary.BigEndian.PutUint16(quoted[20:], e.dst.Port())
	binary.BigEndian.PutUint16(quoted[22:], e.src.Port())
	b := make([]byte, 14+20+8, 14+20+8+len(quoted))
	copy(b, onearm.DirectorMAC)
	copy(b[6:], onearm.RouterMAC)
	b[12] = 8
	ipHeader(b[14:], 1, 20+8+len(quoted), ttl, e.src.Addr(), e.dst.Addr())
	b[34], b[35] = kind, code
	if kind == 3 && code == 4 {
		binary.BigEndian.PutUint16(b[40:], 1400)
	}
	b = append(b, quoted...)
	binary.BigEndian.PutUint16(b[36:], ipChecksum(b[34:]))
	return b
}

func ipHeader(b []byte, proto byte, length int, ttl byte, src, dst netip.Addr) {
	b[0], b[8], b[9] = 0x45, ttl, proto
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], ipChecksum(b[:20]))
}

// ipChecksum is RFC 1071's; over a header with a right one it is 0.
func ipChecksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
