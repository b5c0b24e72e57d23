package netfilter

import (
	"bytes"
	"encoding/binary"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// about says what a condition looks at.
type about uint8

const (
	destination about = 1 << iota
	port
	protocol
	device
	source
	other // anything that is not known of a packet for a VIP
)

// matches is the answer to "do packets for the listener match?".
type matches uint8

const (
	no matches = iota
	some
	yes
)

func (t matches) inverse() matches { return yes - t }

// value is what a register or a header holds for the packets of a listener:
// bytes between lo and hi, read as numbers. Where fixed is false a byte is
// not the same for all packets.
type value struct {
	lo, hi []byte
	fixed  []bool
	about  about
}

func exactly(a about, b ...byte) value {
	v := value{lo: b, hi: b, fixed: make([]bool, len(b)), about: a}
	for i := range v.fixed {
		v.fixed[i] = true
	}
	return v
}

// anything is a value of n bytes that is not known.
func anything(a about, n int) value {
	v := value{lo: make([]byte, n), hi: make([]byte, n), fixed: make([]bool, n), about: a}
	for i := range v.hi {
		v.hi[i] = 0xff
	}
	return v
}

func (v value) sub(from, to int) value {
	return value{v.lo[from:to], v.hi[from:to], v.fixed[from:to], v.about}
}

// join puts w behind v.
func (v value) join(w value) value {
	return value{
		append(bytes.Clone(v.lo), w.lo...), append(bytes.Clone(v.hi), w.hi...),
		append(append([]bool(nil), v.fixed...), w.fixed...), v.about | w.about,
	}
}

// masked is v & mask ^ xor.
func (v value) masked(mask, xor []byte) value {
	n := min(len(v.lo), len(mask), len(xor))
	w := anything(v.about, n)
	for i := range n {
		switch {
		case v.fixed[i], mask[i] == 0:
			w.lo[i] = v.lo[i]&mask[i] ^ xor[i]
			w.hi[i], w.fixed[i] = w.lo[i], true
		case mask[i] == 0xff && xor[i] == 0:
			w.lo[i], w.hi[i] = v.lo[i], v.hi[i]
		}
	}
	return w
}

// inRange asks whether v lies between from and to, inclusive.
func (v value) inRange(from, to []byte) matches {
	n := min(len(v.lo), len(from), len(to))
	from, to, v = from[:n], to[:n], v.sub(0, n)
	if bytes.Equal(from, to) {
		return v.equals(from)
	}
	switch {
	case bytes.Compare(v.hi, from) < 0 || bytes.Compare(v.lo, to) > 0:
		return no
	case bytes.Compare(from, v.lo) <= 0 && bytes.Compare(v.hi, to) <= 0:
		return yes
	}
	return some
}

func (v value) equals(b []byte) matches {
	all := yes
	for i, fixed := range v.fixed {
		if fixed && v.lo[i] != b[i] {
			return no
		}
		if !fixed {
			all = some
		}
	}
	if bytes.Compare(b, v.lo) < 0 || bytes.Compare(b, v.hi) > 0 {
		return no
	}
	return all
}

// packet is what is known of the packets that clients send to a listener; of those
// that leave, of packets from or to an address.
type packet struct {
	listener  lb.Listener
	device    string
	index     uint32 // of the device
	isLeaving bool   // by the device

	network   value // IP header
	transport value // the ports
	fields    []field
}

// field says what some bytes of a header are.
type field struct {
	from, to int
	is       about
}

// IPv4 (RFC 791) and IPv6 (RFC 8200) headers.
var (
	fields4 = []field{{9, 10, protocol}, {12, 16, source}, {16, 20, destination}}
	fields6 = []field{{6, 7, protocol}, {8, 24, source}, {24, 40, destination}}
)

func packetFor(l lb.Listener, device string, index uint32) packet {
	p := packet{listener: l, device: device, index: index, network: anything(other, 20), fields: fields4}
	if l.Addr.Is6() {
		p.network, p.fields = anything(other, 40), fields6
	}
	for _, f := range p.fields {
		switch f.is {
		case protocol:
			p.network.setBytes(f.from, byte(l.Proto))
		case destination:
			p.network.setBytes(f.from, l.Addr.AsSlice()...)
		}
	}
	p.transport = anything(other, 20)
	first, last := l.First, l.Last
	if l.EveryPort() {
		last = 0xffff
	}
	binary.BigEndian.PutUint16(p.transport.lo[2:], first)
	binary.BigEndian.PutUint16(p.transport.hi[2:], last)
	if first == last {
		p.transport.fixed[2], p.transport.fixed[3] = true, true
	}
	return p
}

func (v value) setBytes(at int, b ...byte) {
	copy(v.lo[at:], b)
	copy(v.hi[at:], b)
	for i := range b {
		v.fixed[at+i] = true
	}
}

// ipBytes reads bytes of the IP header.
func (p packet) ipBytes(from, n int) value {
	if n <= 0 || from < 0 || from+n > len(p.network.lo) {
		return anything(other, max(n, 0))
	}
	v := p.network.sub(from, from+n)
	v.about = 0
	for i := from; i < from+n; i++ {
		v.about |= p.aboutByte(i)
	}
	return v
}

func (p packet) aboutByte(i int) about {
	for _, f := range p.fields {
		if f.from <= i && i < f.to {
			return f.is
		}
	}
	return other
}

// l4Bytes reads bytes of the transport header.
func (p packet) l4Bytes(from, n int) value {
	if n <= 0 || from < 0 || from+n > len(p.transport.lo) {
		return anything(other, max(n, 0))
	}
	v := p.transport.sub(from, from+n)
	v.about = other
	switch {
	case from == 2 && n <= 2 || from == 3 && n == 1:
		v.about = port
	case from < 4 && from+n > 2:
		v.about = port | other
	}
	return v
}
