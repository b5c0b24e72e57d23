package oracle

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
)

// translate puts another address and port into out, which is p: of the real in
// place of the VIP's, or for a reply the other way round. A port of 0 is as it was.
func (d *Director) translate(p packet, out []byte, to netip.AddrPort, isReply, icmp bool) {
	address, port := 16, 2
	if isReply {
		address, port = 12, 0
	}
	ip := out[p.ip:]
	l4 := ip[p.header:p.length]
	addr := to.Addr().AsSlice()
	switch {
	case icmp: // what it quotes went the other way
		q := l4[8:]
		replacePort(q[int(q[0]&15)*4+2-port:], to.Port(), l4[2:4])
		replace(q[28-address:32-address], addr, q[10:12])
	case p.offset == 0:
		at := map[byte]int{6: 16, 17: 6}[p.proto]
		sum := l4[at : at+2]
		begun := d.world.Generic && binary.BigEndian.Uint16(sum) == pseudoSum(ip, len(l4))
		none := p.proto == 17 && sum[0]|sum[1] == 0
		before := bytes.Clone(ip[address : address+4])
		switch {
		case begun:
			replacePort(l4[port:], to.Port(), nil)
			binary.BigEndian.PutUint16(sum, ^adjusted(^binary.BigEndian.Uint16(sum), before, addr))
		case none:
			replacePort(l4[port:], to.Port(), nil)
		default:
			was := slices.Concat(before, l4[port:port+2])
			replacePort(l4[port:], to.Port(), nil)
			n := adjusted(binary.BigEndian.Uint16(sum), was, slices.Concat(addr, l4[port:port+2]))
			if n == 0 && p.proto == 17 {
				n = 0xffff
			}
			binary.BigEndian.PutUint16(sum, n)
		}
	}
	replace(ip[address:address+4], addr, ip[10:12])
}

// replacePort writes a port, unless it is 0, and what a checksum becomes by it.
func replacePort(at []byte, port uint16, sum []byte) {
	to := bytes.Clone(at[:2])
	if port != 0 {
		binary.BigEndian.PutUint16(to, port)
	}
	replace(at[:2], to, sum)
}

// replace writes bytes, and what a checksum becomes by it (RFC 1624, equation 3).
func replace(at, by, sum []byte) {
	if sum != nil {
		binary.BigEndian.PutUint16(sum, adjusted(binary.BigEndian.Uint16(sum), at, by))
	}
	copy(at, by)
}

func adjusted(sum uint16, was, is []byte) uint16 {
	n := uint32(^sum)
	for i := 0; i < len(was); i += 2 {
		n += uint32(^binary.BigEndian.Uint16(was[i:])) + uint32(binary.BigEndian.Uint16(is[i:]))
	}
	return ^fold(n)
}

// pseudoSum is the sum of TCP's or UDP's pseudo-header: what a checksum is that
// has only been begun.
func pseudoSum(ip []byte, length int) uint16 {
	n := uint32(ip[9]) + uint32(length)
	for i := 12; i < 20; i += 2 {
		n += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	return fold(n)
}
