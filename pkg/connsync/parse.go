package connsync

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Lengths on the wire, in bytes.
const (
	headerLen1   = 8
	headerLen0   = 4
	recordLen4   = 36 // version 1, IPv4
	recordLen6   = 72 // version 1, IPv6
	recordLen0   = 24 // version 0
	sequenceLen  = 24
	peNameLen    = 16
	recordAlign  = 4 // version 1 starts each record at a multiple of it
	typeIPv6     = 1
	version1     = 1
	lengthMask   = 0x0fff // of the 16 bits that hold version and length of a record
	versionShift = 12
)

// Header is what a datagram says of itself.
type Header struct {
	Version uint8 // 0 or 1
	SyncID  uint8 // the group of directors that it is meant for
	Count   uint8 // of records, as the sender counted
	Skipped int   // records that this package has no meaning for: a protocol, a state or a mandatory option
}

// Parse decodes datagram b and appends its records to dst. It judges as a
// kernel that runs as backup does (ip_vs_process_message): with an error the
// records before the fault are good and are returned, the rest of the datagram
// is lost. Records do not alias b.
func Parse(dst []Record, b []byte) ([]Record, Header, error) {
	if len(b) < headerLen0 {
		return dst, Header{}, fmt.Errorf("datagram of %d bytes (at least %d)", len(b), headerLen0)
	}
	if size := int(binary.BigEndian.Uint16(b[2:])); size != len(b) {
		return dst, Header{}, fmt.Errorf("datagram of %d bytes says it has %d", len(b), size)
	}
	if len(b) >= headerLen1 && b[0] == 0 && b[5] == version1 && b[6] == 0 && b[7] == 0 {
		return parse1(dst, b)
	}
	return parse0(dst, b)
}

func parse1(dst []Record, b []byte) ([]Record, Header, error) {
	h := Header{Version: 1, SyncID: b[1], Count: b[4]}
	at := headerLen1
	for i := range int(h.Count) {
		length, err := recordLength(b[at:])
		if err != nil {
			return dst, h, fmt.Errorf("record %d at byte %d: %w", i, at, err)
		}
		var r Record
		known, err := parseRecord1(&r, b[at:at+length])
		if err != nil {
			return dst, h, fmt.Errorf("record %d at byte %d: %w", i, at, err)
		}
		if known && r.isKnown() {
			dst = append(dst, r)
		} else {
			h.Skipped++
		}
		at = min(align(at+length), len(b))
	}
	return dst, h, nil
}

// align is the next place where a version 1 record may start.
func align(at int) int { return (at + recordAlign - 1) &^ (recordAlign - 1) }

// recordLength checks how long the version 1 record at the start of b is.
func recordLength(b []byte) (int, error) {
	if len(b) < recordLen4 {
		return 0, fmt.Errorf("%d bytes left (at least %d)", len(b), recordLen4)
	}
	least := recordLen4
	switch b[0] {
	case 0:
	case typeIPv6:
		least = recordLen6
	default:
		return 0, fmt.Errorf("type %d (0 for IPv4, 1 for IPv6)", b[0])
	}
	word := binary.BigEndian.Uint16(b[2:])
	if v := word >> versionShift; v != 0 {
		return 0, fmt.Errorf("record version %d (0)", v)
	}
	length := int(word & lengthMask)
	if length < least || length > len(b) {
		return 0, fmt.Errorf("length %d (%d to %d)", length, least, len(b))
	}
	return length, nil
}

// parseRecord1 decodes b, which is as long as the record. Known is false if b
// has an option that is mandatory and unknown.
func parseRecord1(r *Record, b []byte) (known bool, err error) {
	r.Protocol = b[1]
	r.Flags = Flags(binary.BigEndian.Uint32(b[4:])) & wireFlags
	r.State = State(binary.BigEndian.Uint16(b[8:]))
	r.Mark = binary.BigEndian.Uint32(b[16:])
	r.Timeout = time.Duration(binary.BigEndian.Uint32(b[20:])) * time.Second
	r.Options = nil
	options := recordLen4
	for i, to := range [...]*netip.AddrPort{&r.Client, &r.Virtual, &r.Real} {
		port := binary.BigEndian.Uint16(b[10+2*i:])
		if b[0] == typeIPv6 {
			options = recordLen6
			*to = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24+16*i:])), port)
		} else {
			*to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24+4*i:])), port)
		}
	}
	if len(b) == options {
		return true, nil
	}
	r.Options, known, err = parseOptions(b[options:])
	return known, err
}

func parseOptions(b []byte) (options []Option, known bool, err error) {
	known = true
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || len(b) < 2+int(b[1]) {
			return nil, false, fmt.Errorf("option that does not fit its record")
		}
		o := Option{Type: b[0], Data: append([]byte(nil), b[2:2+int(b[1])]...)}
		b = b[2+len(o.Data):]
		switch t := o.Type &^ OptionMayIgnore; {
		case t == OptionSequence && len(o.Data) != sequenceLen:
			return nil, false, fmt.Errorf("sequence numbers of %d bytes (%d)", len(o.Data), sequenceLen)
		case t == OptionPEName && len(o.Data) > peNameLen:
			return nil, false, fmt.Errorf("name of a persistence engine of %d bytes (at most %d)", len(o.Data), peNameLen)
		case t < OptionSequence || t > OptionPEName:
			known = known && o.Type&OptionMayIgnore != 0
		}
		options = append(options, o)
	}
	return options, known, nil
}

func parse0(dst []Record, b []byte) ([]Record, Header, error) {
	h := Header{Count: b[0], SyncID: b[1]}
	at := headerLen0
	for i := range int(h.Count) {
		left := b[at:]
		if len(left) < recordLen0 {
			return dst, h, fmt.Errorf("record %d at byte %d: %d bytes left (%d)", i, at, len(left), recordLen0)
		}
		flags := Flags(binary.BigEndian.Uint16(left[20:]))
		length := recordLen0
		if flags&FlagSequence != 0 {
			// The numbers are in the sender's byte order: nobody can use them.
			length += sequenceLen
		}
		if len(left) < length {
			return dst, h, fmt.Errorf("record %d at byte %d: %d bytes left (%d)", i, at, len(left), length)
		}
		r := Record{
			Protocol: left[1],
			Flags:    flags & wireFlags &^ FlagSequence,
			State:    State(binary.BigEndian.Uint16(left[22:])),
		}
		for j, to := range []*netip.AddrPort{&r.Client, &r.Virtual, &r.Real} {
			addr := netip.AddrFrom4([4]byte(left[8+4*j:]))
			*to = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(left[2+2*j:]))
		}
		r.readMark()
		if r.isKnown() {
			dst = append(dst, r)
		} else {
			h.Skipped++
		}
		at += length
	}
	return dst, h, nil
}
