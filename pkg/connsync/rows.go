package connsync

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Rows are those rows of a stateless service that may have connections at another
// real than their own, and no entry tells of them: a director that joins would count
// the rows as settled.
type Rows struct {
	Service string // at most 255 bytes
	Count   int    // of all rows of the service: another number is another service
	Changed []Row
}

// Row is one of [Rows].
type Row struct {
	Number  int
	Real    netip.AddrPort // that has the row now
	Settled netip.AddrPort // that had the row when it last was settled
	Since   time.Duration  // how long ago that ended, in seconds
}

// Lengths in a frame of rows.
const (
	rowAddressLen = 16 + 2
	rowLen        = 4 + 2*rowAddressLen + 4 // number u32, real, settled real, seconds u32
	rowsHead      = 4 + 2                   // behind the name: count u32, length of a row u16
	maxRows       = (maxFrame - 1 - digestMaxName - rowsHead) / rowLen
)

// appendRows appends rows to the body of a frame: the name with its length, how
// many rows the service has, how long a row is here, rows. An address of IPv4 is
// written as IPv6 has it.
func appendRows(b []byte, r *Rows) []byte {
	name := r.Service[:min(len(r.Service), digestMaxName)]
	b = append(append(b, uint8(len(name))), name...)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Count))
	b = binary.BigEndian.AppendUint16(b, rowLen)
	for _, row := range r.Changed[:min(len(r.Changed), maxRows)] {
		b = binary.BigEndian.AppendUint32(b, uint32(row.Number))
		for _, real := range [...]netip.AddrPort{row.Real, row.Settled} {
			addr := real.Addr().As16()
			b = binary.BigEndian.AppendUint16(append(b, addr[:]...), real.Port())
		}
		b = binary.BigEndian.AppendUint32(b, uint32(min(max(row.Since, 0), MaxTimeout)/time.Second))
	}
	return b
}

var errRows = errors.New("rows that do not fit their frame")

// parseRows decodes the body of a frame of rows. Bytes behind what is known of a row
// are skipped.
func parseRows(b []byte) (r Rows, err error) {
	if len(b) < 1 || len(b) < 1+int(b[0])+rowsHead {
		return r, errRows
	}
	name := int(b[0])
	r.Service = string(b[1 : 1+name])
	b = b[1+name:]
	count, length := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	b = b[rowsHead:]
	if length < rowLen || len(b)%length != 0 || count > maxRows {
		return r, errRows
	}
	r.Count = int(count)
	for ; len(b) > 0; b = b[length:] {
		number := binary.BigEndian.Uint32(b)
		if number >= count {
			return r, errRows
		}
		r.Changed = append(r.Changed, Row{
			Number: int(number), Real: rowAddress(b[4:]), Settled: rowAddress(b[4+rowAddressLen:]),
			Since: time.Duration(binary.BigEndian.Uint32(b[4+2*rowAddressLen:])) * time.Second,
		})
	}
	return r, nil
}

func rowAddress(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
}
