package xdp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Lengths of headers.
const (
	ethernetLen = 14
	ipv4Len     = 20
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
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	copy(b[ethernetLen:], packet)
	return b, nil
}

// buildPacket is p from its IPv4 header on.
func buildPacket(p lb.Packet) ([]byte, error) {
	payload, err := buildTransport(p)
	if err != nil {
		return nil, err
	}
	size := max(ipv4Len+len(payload), p.Size)
	if size > 0xffff {
		return nil, fmt.Errorf("size %d: no IPv4 packet is longer than 65535 bytes", p.Size)
	}
	b := make([]byte, size)
	b[0], b[6], b[8], b[9] = 0x45, 0x40, 64, byte(p.Proto) // not to be fragmented, as nearly all are
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	src, dst := p.Src.Addr().As4(), p.Dst.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b[:ipv4Len]))
	copy(b[ipv4Len:], payload)
	return b, nil
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
		binary.BigEndian.PutUint16(b[4:], uint16(max(udpLen, p.Size-ipv4Len)))
		return b, nil
	case lb.ICMP:
		return buildICMP(p)
	}
	return nil, fmt.Errorf("protocol %s: neither TCP, UDP nor ICMP", p.Proto)
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
	binary.BigEndian.PutUint16(b[2:], checksum(b))
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
