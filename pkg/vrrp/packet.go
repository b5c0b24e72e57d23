package vrrp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Protocol is VRRP's IP protocol number.
const Protocol = 112

// The groups that advertisements are sent to (RFC 5798 section 5.1).
var (
	Group4 = netip.MustParseAddr("224.0.0.18")
	Group6 = netip.MustParseAddr("ff02::12")
)

// The lengths of the parts of a message (RFC 3768 section 5.1, RFC 5798
// section 5.1).
const (
	headerLen    = 8
	authLen      = 8 // version 2 always carries the field, zero without authentication
	maxAddresses = 255
)

// OwnerPriority is that of a router whose interface has the VIPs as its own (RFC 5798
// section 5.2.4): it does not give them up.
const OwnerPriority = 255

// MaxInterval is the longest advertisement interval of version 3: 12 bits
// of centiseconds. Version 2 counts whole seconds up to 255.
const MaxInterval = 4095 * 10 * time.Millisecond

const advertType = 1 // the only type there is

// AuthType is the authentication type of version 2 (RFC 2338 section
// 5.3.6). The IPsec header, type 2, is another IP protocol and never gets
// here.
type AuthType uint8

// The authentication types.
const (
	AuthNone   AuthType = 0
	AuthSimple AuthType = 1
)

// Packet is one advertisement. Version 3 has no authentication; the family
// of Addrs decides between IPv4 and IPv6, so that there is at least one.
type Packet struct {
	Version  uint8 // 2 or 3
	VRID     uint8
	Priority uint8         // 0: the master resigns
	Interval time.Duration // version 2: whole seconds; version 3: centiseconds
	Auth     AuthType      // version 2
	Password [authLen]byte // version 2, AuthSimple: clear text, padded with zeros
	Addrs    []netip.Addr  // in the sender's order
}

// Append encodes p for a datagram from src to dst and appends it to b. Src
// and dst count for version 3 only, whose checksum covers the IP
// pseudo-header (RFC 5798 section 5.2.8); version 2's covers the message
// with its password.
func (p Packet) Append(b []byte, src, dst netip.Addr) ([]byte, error) {
	interval, err := p.wireInterval()
	if err != nil {
		return b, err
	}
	if len(p.Addrs) == 0 || len(p.Addrs) > maxAddresses {
		return b, fmt.Errorf("%d addresses in an advertisement (1 to %d)", len(p.Addrs), maxAddresses)
	}
	start := len(b)
	b = append(b, p.Version<<4|advertType, p.VRID, p.Priority, uint8(len(p.Addrs)))
	b = binary.BigEndian.AppendUint16(b, interval)
	b = append(b, 0, 0)
	for _, a := range p.Addrs {
		if a.Is4() != p.Addrs[0].Is4() || (p.Version == 2 && !a.Is4()) {
			return b[:start], fmt.Errorf("address %s in a version %d advertisement of %s (one family each, version 2 is IPv4)",
				a, p.Version, p.Addrs[0])
		}
		b = append(b, a.AsSlice()...)
	}
	if p.Version == 2 {
		b = append(b, p.Password[:]...)
	}
	binary.BigEndian.PutUint16(b[start+6:], checksum(b[start:], p.Version, src, dst))
	return b, nil
}

// wireInterval gives the 16 bits after the address count: authentication
// type and seconds, or four reserved bits and centiseconds.
func (p Packet) wireInterval() (uint16, error) {
	unit, limit := time.Second, 255*time.Second
	if p.Version == 3 {
		unit, limit = 10*time.Millisecond, MaxInterval
	} else if p.Version != 2 {
		return 0, fmt.Errorf("VRRP version %d (2 or 3)", p.Version)
	}
	if p.Interval < unit || p.Interval > limit || p.Interval%unit != 0 {
		return 0, fmt.Errorf("advertisement interval %s (a multiple of %s up to %s in version %d)", p.Interval, unit, limit, p.Version)
	}
	n := uint16(p.Interval / unit)
	if p.Version == 2 {
		n |= uint16(p.Auth) << 8
	}
	return n, nil
}

// Parse decodes the VRRP message b of a datagram from src to dst. The error
// is a [Reason]. It checks what concerns every receiver (RFC 5798 section
// 7.1): version, type, length and checksum; the rest is [Instance.Accepts].
// The packet does not alias b.
func Parse(b []byte, src, dst netip.Addr) (Packet, error) {
	if len(b) < headerLen {
		return Packet{}, BadLength
	}
	p := Packet{Version: b[0] >> 4, VRID: b[1], Priority: b[2]}
	if p.Version != 2 && p.Version != 3 || p.Version == 2 && !dst.Is4() {
		return Packet{}, BadVersion
	}
	if b[0]&0xf != advertType {
		return Packet{}, BadType
	}
	count, size, tail := int(b[3]), dst.BitLen()/8, 0
	if p.Version == 2 {
		tail = authLen
	}
	// Equality, not a minimum: no RFC says what a longer message means.
	if count == 0 || len(b) != headerLen+count*size+tail {
		return Packet{}, BadLength
	}
	if checksum(b, p.Version, src, dst) != binary.BigEndian.Uint16(b[6:]) {
		return Packet{}, BadChecksum
	}
	if p.Version == 2 {
		p.Auth, p.Interval = AuthType(b[4]), time.Duration(b[5])*time.Second
		if p.Auth == AuthSimple {
			p.Password = [authLen]byte(b[len(b)-authLen:])
		}
	} else {
		p.Interval = time.Duration(binary.BigEndian.Uint16(b[4:])&0xfff) * 10 * time.Millisecond
	}
	if p.Interval == 0 {
		return Packet{}, BadInterval
	}
	p.Addrs = make([]netip.Addr, count)
	for i := range p.Addrs {
		p.Addrs[i], _ = netip.AddrFromSlice(b[headerLen+i*size:][:size])
	}
	return p, nil
}

// checksum is the Internet checksum (RFC 1071) of message b with its own
// checksum field taken as zero; version 3 adds the pseudo-header.
func checksum(b []byte, version uint8, src, dst netip.Addr) uint16 {
	sum := sumWords(b[:6]) + sumWords(b[headerLen:])
	if version == 3 {
		sum += sumWords(src.AsSlice()) + sumWords(dst.AsSlice()) + uint32(len(b)) + Protocol
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// sumWords adds b's big-endian words; 4 kB of them cannot overflow.
func sumWords(b []byte) (sum uint32) {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}
