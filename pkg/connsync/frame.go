package connsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// The session protocol between lvx directors: frames of a type, a length and a
// body over TLS. A receiver skips frames of types that it does not know, and
// bytes behind what it knows of an entry, so that two releases understand each
// other.
const (
	frameHeader = 4       // type u8, length of the body u24
	maxFrame    = 1 << 20 // bytes of a body
	entryTail   = 5       // idle seconds u32, bits u8, behind a version 1 record
	bitProven   = 1

	protocolNow     = 2 // the version of the session protocol that this release speaks
	protocolOldest  = 1 // the oldest that it understands
	protocolBatches = 2 // the first that has frames of batches
)

// The types of frames.
const (
	frameHello    = 1  // first in each direction: version u16, oldest version understood u16
	frameEntries  = 2  // entries, each: length u16, record, tail; for peers of version 1
	frameSnapshot = 3  // body 0: a walk over the whole table begins; 1: it is complete
	frameAck      = 4  // u64: frames of entries absorbed since the session began
	frameAlive    = 5  // nothing new
	frameDigest   = 6  // services: name and digest of each, see [Digest]
	frameAsk      = 7  // u64: to be answered behind everything that is queued, outside of a walk
	frameAnswer   = 8  // u64: of the ask
	frameAgain    = 9  // walk over the whole table again
	frameRows     = 10 // rows of a stateless service that are not settled, see [Rows]
	frameBatch    = 11 // kinds, each as an entry, then clients of them, see [Batch]
)

// Entry is a record with what only lvx directors tell each other.
type Entry struct {
	Record
	Idle     time.Duration // since its last packet, in seconds
	IsProven bool          // the client has answered: not evicted by a SYN

	// IsUnsigned says that nobody has proven who tells of the entry: it came by
	// the kernel's wire. It is never told on.
	IsUnsigned bool
}

// appendEntry appends e to the body of a frame of entries.
func appendEntry(b []byte, e *Entry) ([]byte, error) {
	begin := len(b)
	b, err := appendRecord1(append(b, 0, 0), &e.Record)
	if err != nil {
		return b[:begin], err
	}
	idle := min(max(e.Idle, 0), MaxTimeout)
	b = binary.BigEndian.AppendUint32(b, uint32(idle/time.Second))
	var bits uint8
	if e.IsProven {
		bits |= bitProven
	}
	b = append(b, bits)
	binary.BigEndian.PutUint16(b[begin:], uint16(len(b)-begin-2))
	return b, nil
}

// entryFrame is a frame of entries as it is sent.
type entryFrame struct {
	bytes []byte
	count int // of entries
}

// framesOf are the frames that tell a peer that speaks a version of the protocol of
// entries.
func framesOf(b *Batch, version uint16) ([]entryFrame, error) {
	if version >= protocolBatches {
		return batchFrames(b)
	}
	return entryFrames(b.Entries())
}

func entryFrames(entries []Entry) (frames []entryFrame, err error) {
	for part := range slices.Chunk(entries, batchEntries) {
		b := make([]byte, frameHeader, frameHeader+len(part)*(2+recordLen4+entryTail))
		for i := range part {
			if b, err = appendEntry(b, &part[i]); err != nil {
				return nil, err
			}
		}
		binary.BigEndian.PutUint32(b, frameEntries<<24|uint32(len(b)-frameHeader))
		frames = append(frames, entryFrame{b, len(part)})
	}
	return frames, nil
}

var errEntry = errors.New("entry that does not fit its frame")

// parseEntries decodes the body of a frame of entries and appends them to dst.
// Entries that have no meaning here are left out.
func parseEntries(dst []Entry, b []byte) ([]Entry, error) {
	for len(b) > 0 {
		at := len(dst)
		dst = slices.Grow(dst, 1)[:at+1]
		rest, known, err := parseEntry(&dst[at], b)
		if err != nil {
			return dst[:at], err
		}
		if !known {
			dst = dst[:at]
		}
		b = rest
	}
	return dst, nil
}

// parseEntry decodes the entry at the start of b. Known is false if it has no
// meaning here.
func parseEntry(e *Entry, b []byte) (rest []byte, known bool, err error) {
	if len(b) < 2 {
		return b, false, errEntry
	}
	length := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+length {
		return b, false, errEntry
	}
	entry := b[2 : 2+length]
	n, err := recordLength(entry)
	if err != nil {
		return b, false, err
	}
	if len(entry) < n+entryTail {
		return b, false, errEntry
	}
	if known, err = parseRecord1(&e.Record, entry[:n]); err != nil {
		return b, false, err
	}
	e.Idle = time.Duration(binary.BigEndian.Uint32(entry[n:])) * time.Second
	e.IsProven, e.IsUnsigned = entry[n+4]&bitProven != 0, false
	return b[2+length:], known && e.isKnown(), nil
}

func writeFrame(w io.Writer, kind uint8, body []byte) error {
	if len(body) > maxFrame {
		return fmt.Errorf("frame of %d bytes (at most %d)", len(body), maxFrame)
	}
	b := make([]byte, frameHeader, frameHeader+len(body))
	binary.BigEndian.PutUint32(b, uint32(kind)<<24|uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readFrame reads one frame. The body is valid until the next call with the
// same buffer.
func readFrame(r io.Reader, buffer []byte) (kind uint8, body, grown []byte, err error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, buffer, err
	}
	word := binary.BigEndian.Uint32(h[:])
	length := int(word & 0xffffff)
	if length > maxFrame {
		return 0, nil, buffer, fmt.Errorf("frame of %d bytes (at most %d)", length, maxFrame)
	}
	if cap(buffer) < length {
		buffer = make([]byte, length)
	}
	body = buffer[:length]
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, buffer, err
	}
	return uint8(word >> 24), body, buffer, nil
}
