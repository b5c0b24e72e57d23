package connsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// The limits of a datagram's length, in bytes of UDP payload.
const (
	DefaultMaxLen = 1472 // what fits an Ethernet frame: 1500 less the IP and UDP headers
	MinMaxLen     = 128  // room for a record of either family with its options, but not for long ones
	MaxMaxLen     = 65507

	maxCount = 255 // records of one datagram: the header counts in a byte
)

// Packer gathers records into datagrams, as many as fit each. The zero value
// is not usable; see [NewPacker]. It is used by one goroutine at a time.
type Packer struct {
	version uint8
	syncID  uint8
	maxLen  int
	b       []byte
	count   int
}

// NewPacker makes a packer of datagrams of version 0 or 1 that are at most
// maxLen bytes long ([MinMaxLen] to [MaxMaxLen]).
func NewPacker(version, syncID uint8, maxLen int) (*Packer, error) {
	if version > version1 {
		return nil, fmt.Errorf("version %d of connection sync (0 or 1)", version)
	}
	if maxLen < MinMaxLen || maxLen > MaxMaxLen {
		return nil, fmt.Errorf("datagrams of %d bytes (%d to %d)", maxLen, MinMaxLen, MaxMaxLen)
	}
	return &Packer{version: version, syncID: syncID, maxLen: maxLen}, nil
}

// ErrNotCarried says that version 0 cannot carry a record: it knows no IPv6.
var ErrNotCarried = errors.New("IPv6 record in version 0 of connection sync (1)")

// Add appends r. If r does not fit the datagram that was being filled, the
// datagram is finished and returned, and r is the first of the next one;
// otherwise full is nil. On error nothing has changed.
func (p *Packer) Add(r Record) (full []byte, err error) {
	record, err := p.encode(r)
	if err != nil {
		return nil, err
	}
	header := headerLen1
	if p.version == 0 {
		header = headerLen0
	}
	if header+len(record) > p.maxLen {
		return nil, fmt.Errorf("record of %d bytes in datagrams of %d", len(record), p.maxLen)
	}
	if len(p.b) > 0 && (align(len(p.b))+len(record) > p.maxLen || p.count == maxCount) {
		full = p.Flush()
	}
	if len(p.b) == 0 {
		p.b = make([]byte, header, p.maxLen)
	}
	p.b = append(p.b, make([]byte, align(len(p.b))-len(p.b))...)
	p.b = append(p.b, record...)
	p.count++
	return full, nil
}

// Flush finishes the datagram that is being filled and returns it, nil if
// there is none. The caller owns what is returned.
func (p *Packer) Flush() []byte {
	b, count := p.b, p.count
	p.b, p.count = nil, 0
	if count == 0 {
		return nil
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	if p.version == 0 {
		b[0], b[1] = uint8(count), p.syncID
		return b
	}
	b[1], b[4], b[5] = p.syncID, uint8(count), version1
	return b
}

func (p *Packer) encode(r Record) ([]byte, error) {
	is4 := r.Client.Addr().Is4()
	for _, a := range []netip.AddrPort{r.Client, r.Virtual, r.Real} {
		if !a.Addr().IsValid() || a.Addr().Is4() != is4 {
			return nil, fmt.Errorf("record of %s, %s and %s (three addresses of one family)", r.Client, r.Virtual, r.Real)
		}
	}
	if r.Timeout < 0 || r.Timeout > MaxTimeout {
		return nil, fmt.Errorf("record with a timeout of %s (0 to %s)", r.Timeout, MaxTimeout)
	}
	if p.version == 0 {
		return encode0(r)
	}
	return appendRecord1(nil, &r)
}

// appendRecord1 appends a record of version 1; on error b is as it was.
func appendRecord1(b []byte, r *Record) ([]byte, error) {
	if r.Client.Addr().Is4() {
		var fixed [recordLen4]byte
		putFixed1(fixed[:], r)
		for i, a := range [...]*netip.AddrPort{&r.Client, &r.Virtual, &r.Real} {
			*(*[4]byte)(fixed[24+4*i:]) = a.Addr().As4()
		}
		return appendOptions(append(b, fixed[:]...), len(b), r.Options)
	}
	var fixed [recordLen6]byte
	fixed[0] = typeIPv6
	putFixed1(fixed[:], r)
	for i, a := range [...]*netip.AddrPort{&r.Client, &r.Virtual, &r.Real} {
		*(*[16]byte)(fixed[24+16*i:]) = a.Addr().As16()
	}
	return appendOptions(append(b, fixed[:]...), len(b), r.Options)
}

// putFixed1 writes what is at the same place in records of both families.
func putFixed1(b []byte, r *Record) {
	b = b[:recordLen4]
	b[1] = r.Protocol
	binary.BigEndian.PutUint32(b[4:], uint32(r.Flags))
	binary.BigEndian.PutUint16(b[8:], uint16(r.State))
	binary.BigEndian.PutUint16(b[10:], r.Client.Port())
	binary.BigEndian.PutUint16(b[12:], r.Virtual.Port())
	binary.BigEndian.PutUint16(b[14:], r.Real.Port())
	binary.BigEndian.PutUint32(b[16:], r.Mark)
	binary.BigEndian.PutUint32(b[20:], uint32(r.Timeout/time.Second))
}

// appendOptions appends the options of the record that begins at a byte of b, and
// writes how long the record is.
func appendOptions(b []byte, begin int, options []Option) ([]byte, error) {
	for _, o := range options {
		if len(o.Data) == 0 || len(o.Data) > 255 {
			return b[:begin], fmt.Errorf("option %d of %d bytes (1 to 255)", o.Type, len(o.Data))
		}
		b = append(append(b, o.Type, uint8(len(o.Data))), o.Data...)
	}
	length := len(b) - begin
	if length > lengthMask {
		return b[:begin], fmt.Errorf("record of %d bytes (at most %d)", length, lengthMask)
	}
	binary.BigEndian.PutUint16(b[begin+2:], uint16(length))
	return b, nil
}

func encode0(r Record) ([]byte, error) {
	if !r.Client.Addr().Is4() {
		return nil, ErrNotCarried
	}
	b := make([]byte, recordLen0)
	b[1] = r.Protocol
	for i, a := range []netip.AddrPort{r.Client, r.Virtual, r.Real} {
		binary.BigEndian.PutUint16(b[2+2*i:], a.Port())
		copy(b[8+4*i:], a.Addr().AsSlice())
	}
	binary.BigEndian.PutUint16(b[20:], uint16(r.Flags&^FlagSequence))
	binary.BigEndian.PutUint16(b[22:], uint16(r.State))
	return b, nil
}
