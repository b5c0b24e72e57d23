package judge

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// serverAt is where a packet reaches a real, through a tunnel too: by direct
// routing it is for the VIP's port.
func serverAt(f onearm.Seen) netip.AddrPort {
	b := f.Frame.Data()[14:]
	b = b[overheadOf(b):]
	if b[0]>>4 == 6 {
		return netip.AddrPort{} // nothing that the director would look at
	}
	if b[9] != byte(lb.TCP) && b[9] != byte(lb.UDP) {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(onearm.Real(f.Real), binary.BigEndian.Uint16(b[22:]))
}

// outerLen is the length of the IP header of what comes from the director, 0 for other
// packets.
func outerLen(b []byte) int {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6 && netip.AddrFrom16([16]byte(b[8:24])) == onearm.Director6:
		return 40
	case len(b) >= 20 && b[0]>>4 == 4 && netip.AddrFrom4([4]byte(b[12:16])) == onearm.Director:
		return 20
	}
	return 0
}

// overheadOf is how long what a tunnel has put in front of a packet is: its packets come
// from the director, and so does nothing else but ICMP.
func overheadOf(b []byte) int {
	between := map[byte]int{protoIPIP: 0, protoIPv6: 0, protoGRE: 4, byte(lb.UDP): 8 + 4}
	base := outerLen(b)
	at := map[int]int{20: 9, 40: 6}[base]
	if more, ok := between[b[at]]; ok && base > 0 && len(b) > base+more {
		return base + more
	}
	return 0
}

// carriedIn is a frame with what a tunnel carries, without padding; nil for others.
func carriedIn(f onearm.Seen) []byte {
	b := f.Frame.Data()
	if overheadOf(b[14:]) == 0 {
		return nil
	}
	length := int(binary.BigEndian.Uint16(b[16:]))
	if isIPv6(b) {
		length = 40 + int(binary.BigEndian.Uint16(b[18:]))
	}
	return slices.Clone(b[:14+length])
}

// Numbers that an outer header has.
const (
	protoIPIP = 4
	protoIPv6 = 41
	protoGRE  = 47
)

// comparable is a frame without what means nothing: padding, which the kernel
// takes off, and the identification of what the director sends itself, once
// its checksum was found right.
func comparable(f onearm.Seen) []byte {
	b := f.Frame.Data()
	if len(b) < 34 {
		return b
	}
	if overhead := overheadOf(b[14:]); overhead > 0 {
		return comparableTunnel(b, overhead)
	}
	if isIPv6(b) {
		return comparable6(b)
	}
	if b[12] == 8 && b[13] == 0 {
		b = b[:min(len(b), 14+int(binary.BigEndian.Uint16(b[16:])))]
	}
	if isAnswer := f.Real == 0 || b[23] == 1 && netip.AddrFrom4([4]byte(b[26:30])) == onearm.Director; isAnswer {
		clearID(b)
	}
	return b
}

// clearID takes the identification out of a frame of IPv4 whose checksum is right.
func clearID(b []byte) {
	if len(b) >= 34 && ipChecksum(b[14:34]) == 0 {
		b[18], b[19], b[24], b[25] = 0, 0, 0, 0
	}
}

// comparableTunnel is a frame of a tunnel without padding, and without what of its outer
// headers means nothing: the port that GUE comes from, the flow's, which is of
// ip_local_port_range there, of 49152 and more here; and, where what is carried may be
// fragmented, the identification, which is any number.
func comparableTunnel(b []byte, overhead int) []byte {
	base := outerLen(b[14:])
	if base == 40 {
		b = slices.Clone(b[:min(len(b), ipv6End+int(binary.BigEndian.Uint16(b[18:])))])
	} else {
		b = b[:min(len(b), 14+int(binary.BigEndian.Uint16(b[16:])))]
		if b[20]&0x40 == 0 {
			clearID(b)
		}
	}
	if at := 14 + base; overhead == base+12 && len(b) > at+2 && b[at] >= 0x80 {
		b[at], b[at+1] = 0, 0
	}
	return b
}

// comparable6 is a frame of IPv6 without padding, and without the
// identification of fragments: the kernel puts a datagram together and makes
// fragments of it anew, lvx forwards each as it came.
func comparable6(b []byte) []byte {
	b = slices.Clone(b[:min(len(b), ipv6End+int(binary.BigEndian.Uint16(b[18:])))])
	if b[20] == protoFragment && len(b) >= ipv6End+8 {
		clear(b[ipv6End+4 : ipv6End+8])
	}
	return b
}

// isIPv6 reports whether a frame has a whole header of IPv6.
func isIPv6(b []byte) bool { return len(b) >= ipv6End && b[12] == 0x86 && b[13] == 0xdd }

// Numbers of IPv6.
const (
	ipv6End       = 14 + 40 // of the header in a frame
	protoFragment = 44
	protoAuth     = 51
	protoICMPv6   = 58
)

func nameOf(f onearm.Seen) string {
	b := f.Frame.Data()
	switch {
	case f.Real != 0:
		return fmt.Sprintf("rs%d", f.Real)
	case isIPv6(b) && len(b) > ipv6End+1 && b[20] == protoICMPv6:
		return fmt.Sprintf("ICMPv6 %d/%d", b[ipv6End], b[ipv6End+1])
	case isIPv6(b) && len(b) > ipv6End+13 && b[20] == byte(lb.TCP) && b[ipv6End+13]&4 != 0:
		return "RST"
	case isIPv6(b):
		return "frame"
	case len(b) > 35 && b[23] == 1:
		return fmt.Sprintf("ICMP %d/%d", b[34], b[35])
	case len(b) > 47 && b[23] == 6 && b[47]&4 != 0:
		return "RST"
	}
	return "frame"
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

// icmpAbout6 is a message of ICMPv6 to the VIP that quotes a reply from it.
func icmpAbout6(e endpoints, kind, code, hops byte) []byte {
	quoted := make([]byte, 40+20)
	ipv6Header(quoted, byte(e.proto), 20, 64, e.dst.Addr(), e.src.Addr())
	binary.BigEndian.PutUint16(quoted[40:], e.dst.Port())
	binary.BigEndian.PutUint16(quoted[42:], e.src.Port())
	b := make([]byte, ipv6End+8, ipv6End+8+len(quoted))
	copy(b, onearm.DirectorMAC)
	copy(b[6:], onearm.RouterMAC)
	b[12], b[13] = 0x86, 0xdd
	ipv6Header(b[14:], protoICMPv6, 8+len(quoted), hops, e.src.Addr(), e.dst.Addr())
	b[ipv6End], b[ipv6End+1] = kind, code
	if kind == 2 {
		binary.BigEndian.PutUint32(b[ipv6End+4:], 1400)
	}
	b = append(b, quoted...)
	pseudo := slices.Concat(b[14+8:ipv6End], []byte{0, 0, 0, byte(8 + len(quoted)), 0, 0, 0, protoICMPv6}, b[ipv6End:])
	binary.BigEndian.PutUint16(b[ipv6End+2:], ipChecksum(pseudo))
	return b
}

func ipv6Header(b []byte, next byte, length int, hops byte, src, dst netip.Addr) {
	b[0], b[6], b[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
}

// behindHeaders puts extension headers in front of what a frame of IPv6 has.
func behindHeaders(frame []byte, kinds []byte) []byte {
	var all []byte
	for i, kind := range kinds {
		h := []byte{frame[20], 0, 1, 4, 0, 0, 0, 0} // of options: one of padding
		if i+1 < len(kinds) {
			h[0] = kinds[i+1]
		}
		switch kind {
		case 43:
			clear(h[2:]) // no segments left
		case protoAuth:
			h = append(h, make([]byte, 8)...)
			h[1], h[2], h[3] = 2, 0, 0 // in words of 4 bytes, less 2
		}
		all = append(all, h...)
	}
	return insert6(frame, kinds[0], all)
}

// fragments6 are the two fragments of what a frame of IPv6 carries.
func fragments6(frame []byte, id uint32) [][]byte {
	frame = frame[:ipv6End+int(binary.BigEndian.Uint16(frame[18:]))]
	const cut = 64
	header := func(offset uint16) []byte {
		h := make([]byte, 8)
		h[0] = frame[20]
		binary.BigEndian.PutUint16(h[2:], offset)
		binary.BigEndian.PutUint32(h[4:], id)
		return h
	}
	first := insert6(frame[:ipv6End+cut], protoFragment, header(1))
	return [][]byte{first, insert6(slices.Concat(frame[:ipv6End], frame[ipv6End+cut:]), protoFragment, header(cut))}
}

// insert6 puts headers behind the header of IPv6.
func insert6(frame []byte, next byte, headers []byte) []byte {
	out := slices.Concat(frame[:ipv6End], headers, frame[ipv6End:])
	out[20] = next
	binary.BigEndian.PutUint16(out[18:], uint16(len(out)-ipv6End))
	return out
}
