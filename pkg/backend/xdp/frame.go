package xdp

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Lengths of headers.
const (
	ethernetLen = 14
	tagLen      = 4 // of a VLAN
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 20
	udpLen      = 8
	icmpLen     = 8
)

// strangerMAC is where a frame comes from that nobody has sent.
var strangerMAC = [6]byte{2, 0, 0, 0, 0, 0xfe}

// buildFrame makes the frame that a packet would come in: to the interface
// with this MAC, as long as p says or as its headers need.
func buildFrame(p lb.Packet, mac [8]byte) ([]byte, error) {
	packet, err := buildPacket(p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, max(ethernetLen+len(packet), 60))
	copy(b, mac[:6])
	copy(b[6:], strangerMAC[:])
	etherType := uint16(0x0800)
	if p.Dst.Addr().Is6() {
		etherType = 0x86dd
	}
	binary.BigEndian.PutUint16(b[12:], etherType)
	copy(b[ethernetLen:], packet)
	return b, nil
}

// buildPacket is p from its IP header on.
func buildPacket(p lb.Packet) ([]byte, error) {
	if p.Src.Addr().Is4() != p.Dst.Addr().Is4() {
		return nil, fmt.Errorf("packet from %s to %s: not of one family (expected both IPv4 or both IPv6)", p.Src.Addr(), p.Dst.Addr())
	}
	payload, err := buildTransport(p)
	if err != nil {
		return nil, err
	}
	size := max(headerLen(p)+len(payload), p.Size)
	if size > 0xffff {
		return nil, fmt.Errorf("size %d: no packet is longer than 65535 bytes", p.Size)
	}
	b := make([]byte, size)
	copy(b[headerLen(p):], payload)
	if p.Dst.Addr().Is6() {
		putHeader6(b, p)
		return b, nil
	}
	b[0], b[6], b[8], b[9] = 0x45, 0x40, 64, byte(p.Proto) // not to be fragmented, as nearly all are
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	src, dst := p.Src.Addr().As4(), p.Dst.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipv4Len]))
	return b, nil
}

// headerLen is the length of the IP header of p.
func headerLen(p lb.Packet) int {
	if p.Dst.Addr().Is6() {
		return ipv6Len
	}
	return ipv4Len
}

// putHeader6 writes the IPv6 header of a packet that is there otherwise, and
// the checksum of ICMPv6, of which the addresses are part.
func putHeader6(b []byte, p lb.Packet) {
	b[0], b[6], b[7] = 0x60, byte(p.Proto), 64
	src, dst := p.Src.Addr().As16(), p.Dst.Addr().As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	size := len(b) - ipv6Len
	binary.BigEndian.PutUint16(b[4:], uint16(size))
	if p.Proto == lb.ICMPv6 {
		pseudo := binary.BigEndian.AppendUint32(slices.Clone(b[8:ipv6Len]), uint32(size))
		pseudo = append(pseudo, 0, 0, 0, byte(p.Proto))
		binary.BigEndian.PutUint16(b[ipv6Len+2:], checksum(append(pseudo, b[ipv6Len:]...)))
	}
}

func buildTransport(p lb.Packet) ([]byte, error) {
	switch p.Proto {
	case lb.TCP:
		b := make([]byte, tcpLen)
		putPorts(b, p)
		b[12], b[13] = 0x50, flagBits(p.Flags)
		return b, nil
	case lb.UDP:
		b := make([]byte, udpLen)
		putPorts(b, p)
		binary.BigEndian.PutUint16(b[4:], uint16(max(udpLen, p.Size-headerLen(p))))
		return b, nil
	case lb.ICMP, lb.ICMPv6:
		if (p.Proto == lb.ICMPv6) != p.Dst.Addr().Is6() {
			return nil, fmt.Errorf("protocol %s to %s: not of one family (icmp is IPv4's, icmp6 is IPv6's)", p.Proto, p.Dst.Addr())
		}
		return buildICMP(p)
	}
	return nil, fmt.Errorf("protocol %s: neither TCP, UDP, ICMP nor ICMPv6", p.Proto)
}

// buildICMP is an ICMP message; an error quotes what the VIP has sent to the
// client of the connection.
func buildICMP(p lb.Packet) ([]byte, error) {
	b := []byte{p.ICMPType, p.ICMPCode, 0, 0, 0, 0, 0, 0}
	if p.Quotes != nil {
		q := *p.Quotes
		q.Src, q.Dst, q.Size, q.Flags = q.Dst, q.Src, 0, "A"
		quoted, err := buildPacket(q)
		if err != nil {
			return nil, err
		}
		b = append(b, quoted...)
	}
	if p.Proto == lb.ICMP {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b, nil
}

func putPorts(b []byte, p lb.Packet) {
	binary.BigEndian.PutUint16(b[0:], p.Src.Port())
	binary.BigEndian.PutUint16(b[2:], p.Dst.Port())
}

// flagBits are the TCP flags of letters; none means SYN.
func flagBits(letters string) (bits byte) {
	if letters == "" {
		letters = "S"
	}
	for i, c := range "FSRPAU" {
		if strings.ContainsRune(letters, c) {
			bits |= 1 << i
		}
	}
	return bits
}

// checksum is the Internet checksum of bytes whose own checksum is 0.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 != 0 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
