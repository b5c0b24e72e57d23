package oracle

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Actions of XDP.
const (
	Drop     = 1
	Pass     = 2
	Transmit = 3
	Redirect = 4
)

// Outcome is what becomes of a frame.
type Outcome struct {
	Verdict string // its name, as Stats has it
	Action  uint32
	Frame   []byte // as it leaves or is passed up; nil if it is dropped
	AnyPort int    // offset of the port that a tunnel by GUE comes from, whichever it is
	AnyFrom int    // offset of the address of an outer header that comes from any of Spread
	Spread  netip.Prefix
	AnyID   int        // offset of the IP header if its identification is any number: of an ICMP answer of the director's, of an outer header
	Real    netip.Addr // whose packet it is; the zero Addr = nobody's

	// Twin, if there is one, is another outcome that is as right: the packet
	// belongs to no connection, and a client of the same name has one. To
	// call it is to say that this is what happened.
	Twin func() Outcome

	to *real
}

func passed(verdict string) Outcome  { return Outcome{Verdict: verdict, Action: Pass} }
func dropped(verdict string) Outcome { return Outcome{Verdict: verdict, Action: Drop} }

// packet is what the director reads of a frame.
type packet struct {
	frame    []byte
	ip       int // offset of the IP header
	header   int // its length
	length   int // of the IP packet
	id       uint32
	more, df bool // flags of the fragment word
	offset   int  // of the fragment, in bytes
	ttl      int
	proto    byte
	src, dst netip.Addr
}

func (p packet) payload() []byte { return p.frame[p.ip+p.header : p.ip+p.length] }

// datagram is what fragments have in common.
type datagram struct {
	src, dst netip.Addr
	id       uint32
	proto    byte
}

func (p packet) datagram() datagram { return datagram{p.src, p.dst, p.id, p.proto} }

// note says where the first fragment of a datagram went.
type note struct {
	real *real // nil: to the kernel, or, if it is lost, nowhere
	lost bool  // it was dropped or answered, not passed up
	at   int64
	vip  netip.Addr // of a reply by NAT
}

// note remembers what became of a first fragment.
func (d *Director) note(p packet, o Outcome) {
	isLost := o.Action == Drop || strings.HasPrefix(o.Verdict, "answered_")
	d.notes[p.datagram()] = note{real: o.to, lost: isLost, at: d.now}
}

// noteTime is how long a note holds (net.ipv4.ipfrag_time).
const noteTime = 30 * time.Second

// Packet lets a frame arrive. A passed frame is passed as it came.
func (d *Director) Packet(frame []byte) Outcome {
	o := d.decide(frame)
	if o.Action == Pass {
		o.Frame = frame
	}
	if o.to != nil {
		o.Real = o.to.conf.Addr
	}
	return o
}

func (d *Director) decide(frame []byte) Outcome {
	if len(frame) < 34 {
		return passed("malformed")
	}
	if d.world.IPv6 && offset6(frame) > 0 {
		return d.decide6(frame)
	}
	if !bytes.Equal(frame[:6], d.world.MAC[:]) {
		return d.passOrSilence(frame, "not_our_mac")
	}
	at := ipv4Offset(frame)
	if at == 0 {
		return d.passOrSilence(frame, "not_ipv4")
	}
	p, ok := parseIPv4(frame, at)
	if !ok {
		return passed("malformed")
	}
	if !d.owns(p.dst) {
		return d.reply(p)
	}
	if isMartian(p.src) {
		return passed("martian")
	}
	if o, serve := d.role(p); !serve {
		return o
	}
	switch {
	case p.proto != 6 && p.proto != 17 && p.proto != 1:
		return passed("other_protocol")
	case p.proto == 1 && (p.more || p.offset > 0):
		return passed("other_protocol")
	case p.proto == 1:
		return d.icmpError(p)
	case p.offset > 0:
		return d.laterFragment(p)
	}
	o := d.balance(p)
	if p.more {
		d.note(p, o)
	}
	return o
}

// ipv4Offset finds IPv4 behind at most two VLAN tags, 0 if it is not there.
func ipv4Offset(frame []byte) int { return offsetOf(frame, 0x0800) }

// offsetOf finds what an EtherType stands for behind at most two VLAN tags, 0 if
// it is not there.
func offsetOf(frame []byte, etherType uint16) int {
	for at := 14; at <= 22; at += 4 {
		if at > len(frame) {
			return 0
		}
		switch binary.BigEndian.Uint16(frame[at-2:]) {
		case etherType:
			return at
		case 0x8100, 0x88a8:
		default:
			return 0
		}
	}
	return 0
}

// parseIPv4 is as strict as ip_rcv, but for the checksum, which the real
// server looks at.
func parseIPv4(frame []byte, at int) (packet, bool) {
	if at+20 > len(frame) {
		return packet{}, false
	}
	h := frame[at:]
	fragment := binary.BigEndian.Uint16(h[6:])
	p := packet{
		frame: frame, ip: at, header: int(h[0]&15) * 4, length: int(binary.BigEndian.Uint16(h[2:])),
		id: uint32(binary.BigEndian.Uint16(h[4:])), df: fragment&0x4000 != 0, more: fragment&0x2000 != 0, offset: int(fragment&0x1fff) * 8,
		ttl: int(h[8]), proto: h[9], src: netip.AddrFrom4([4]byte(h[12:16])), dst: netip.AddrFrom4([4]byte(h[16:20])),
	}
	ok := h[0]>>4 == 4 && p.header >= 20 && p.length >= p.header && at+p.length <= len(frame)
	return p, ok
}

// isMartian reports whether every stack drops packets from an address
// (ip_route_input_slow).
func isMartian(a netip.Addr) bool {
	b := a.As4()
	return b[0] == 0 || b[0] == 127 || a.IsMulticast() || b == [4]byte{255, 255, 255, 255}
}

// owns reports whether an address is a VIP that the packet path knows: a
// service listens on it, or VRRP decides about it.
func (d *Director) owns(a netip.Addr) bool {
	for _, s := range d.state.Services {
		for _, l := range s.Listeners {
			if l.Addr == a {
				return true
			}
		}
	}
	v := d.vip(a)
	return v.Standby || v.Leased
}

// vip is what the state says of a virtual address.
func (d *Director) vip(a netip.Addr) lb.VIP {
	i := slices.IndexFunc(d.state.VIPs, func(v lb.VIP) bool { return v.Addr == a })
	if i < 0 {
		return lb.VIP{Addr: a}
	}
	return d.state.VIPs[i]
}

// isLeaseOver reports whether a VIP depends on a lease that is over.
func (d *Director) isLeaseOver(a netip.Addr) bool {
	v := d.vip(a)
	return v.Leased && !d.world.Lives(v.Lease)
}

// isOwn reports whether an address is the director's: nothing from it can come
// by the wire (fib_validate_source).
func (d *Director) isOwn(a netip.Addr) bool {
	return slices.Contains(d.world.Own, a) || d.owns(a) && !d.state.StandbyVIPs()[a]
}

// role asks whether the director may serve a VIP at all.
func (d *Director) role(p packet) (Outcome, bool) {
	switch {
	case d.vip(p.dst).Standby:
		return passed("standby"), false
	case d.fromPeer(p):
		return passed("from_peer"), false
	case d.isLeaseOver(p.dst):
		return dropped("lease_over"), false
	}
	return Outcome{}, true
}

// fromPeer: a fellow director has sent the packet, to this host as a real
// server behind the VIP, well or not.
func (d *Director) fromPeer(p packet) bool {
	isReal := func(s lb.Service) bool {
		return slices.ContainsFunc(s.Listeners, func(l lb.Listener) bool { return l.Addr == p.dst }) &&
			slices.ContainsFunc(slices.Concat(s.Reals, s.Absent), func(r lb.Real) bool { return d.world.Host(r.Addr).Local })
	}
	if !slices.ContainsFunc(d.state.Services, isReal) {
		return false
	}
	return slices.ContainsFunc(d.state.Peers, func(a netip.Addr) bool {
		return bytes.Equal(p.frame[6:12], macOf(d.world.Host(a)))
	})
}

func macOf(h Host) []byte { return h.MAC[:] }

// passOrSilence passes what is not balanced, except requests "who has VIP"
// that this director must not answer now.
func (d *Director) passOrSilence(frame []byte, verdict string) Outcome {
	at := offsetOf(frame, 0x0806)
	if at == 0 || len(frame) < at+28 || binary.BigEndian.Uint16(frame[at+6:]) != 1 || bytes.Equal(frame[at+14:at+18], frame[at+24:at+28]) {
		return passed(verdict)
	}
	target := netip.AddrFrom4([4]byte(frame[at+24 : at+28]))
	if d.vip(target).Standby || d.isLeaseOver(target) {
		return dropped("arp_silenced")
	}
	return passed(verdict)
}

// laterFragment follows the first one.
func (d *Director) laterFragment(p packet) Outcome {
	n, ok := d.notes[p.datagram()]
	ok = ok && d.now-n.at <= d.ticks(noteTime)
	switch {
	case ok && n.lost:
		return dropped("fragment_lost")
	case ok && n.real == nil:
		return passed("no_listener")
	case ok && n.real.reachable():
		return d.send(p, n.real, false, false)
	}
	return dropped("fragment_lost") // no daemon is there to hold it
}
