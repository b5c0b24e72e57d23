package connsync

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Batch is entries by what they have in common: most of many thousand differ in
// client and idle time alone. Nobody keeps the batch of somebody else.
type Batch struct {
	// Kinds are entries without a client: theirs is the unspecified address of
	// the family, and Idle is 0.
	Kinds   []Entry
	Members []Member
}

// Member is one entry of a [Batch].
type Member struct {
	Client [16]byte // of IPv4 the first four bytes
	Port   uint16
	Kind   uint32 // index of the batch's Kinds
	Idle   uint32 // seconds
}

// ClientOf is the client of one of the batch's members.
func (b *Batch) ClientOf(m *Member) netip.AddrPort {
	if b.Kinds[m.Kind].Client.Addr().Is4() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Client[:4])), m.Port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(m.Client), m.Port)
}

// EntryOf is the entry that one of the batch's members stands for.
func (b *Batch) EntryOf(m *Member) Entry {
	e := b.Kinds[m.Kind]
	e.Client, e.Idle = b.ClientOf(m), time.Duration(m.Idle)*time.Second
	return e
}

// Entries are all entries of the batch.
func (b *Batch) Entries() []Entry {
	entries := make([]Entry, len(b.Members))
	for i := range b.Members {
		entries[i] = b.EntryOf(&b.Members[i])
	}
	return entries
}

// Reset takes everything out of the batch.
func (b *Batch) Reset() { b.Kinds, b.Members = b.Kinds[:0], b.Members[:0] }

// AddKind adds a kind like an entry, and returns its index.
func (b *Batch) AddKind(like Entry) uint32 {
	like.Idle, like.Client = 0, netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if !like.Virtual.Addr().Is4() {
		like.Client = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	b.Kinds = append(b.Kinds, like)
	return uint32(len(b.Kinds) - 1)
}

// Add adds an entry, whose addresses are of one family. One that differs from the
// last kind is of a new one.
func (b *Batch) Add(e Entry) {
	if len(b.Kinds) == 0 || !b.Kinds[len(b.Kinds)-1].isAlike(&e) {
		b.AddKind(e)
	}
	b.Members = append(b.Members, Member{
		Client: addressBytes(e.Client.Addr()), Port: e.Client.Port(), Kind: uint32(len(b.Kinds) - 1),
		Idle: uint32(min(max(e.Idle, 0), MaxTimeout) / time.Second),
	})
}

// BatchOf is a batch of entries, each with addresses of one family.
func BatchOf(entries ...Entry) *Batch {
	b := &Batch{Members: make([]Member, 0, len(entries))}
	for i := range entries {
		b.Add(entries[i])
	}
	return b
}

func addressBytes(a netip.Addr) (b [16]byte) {
	if a.Is4() {
		four := a.As4()
		copy(b[:], four[:])
		return b
	}
	return a.As16()
}

// isAlike reports whether two entries differ in client and idle time at most.
func (e *Entry) isAlike(o *Entry) bool {
	return len(e.Options)+len(o.Options) == 0 && e.Protocol == o.Protocol && e.Flags == o.Flags && e.State == o.State &&
		e.Virtual == o.Virtual && e.Real == o.Real && e.Mark == o.Mark && e.Timeout == o.Timeout &&
		e.IsProven == o.IsProven && e.IsUnsigned == o.IsUnsigned
}

// addressLen is how long a client's address of a kind is.
func (b *Batch) addressLen(kind uint32) int { return b.Kinds[kind].Client.Addr().BitLen() / 8 }

// Lengths in a frame of a batch.
const (
	batchHead  = 2 + 2     // kinds u16, bytes of a member before its address u16
	memberLen  = 2 + 2 + 4 // kind u16, port u16, idle seconds u32, before an address of the kind's family
	memberLen4 = memberLen + 4
)

// batchFrames are the frames that tell of a batch.
func batchFrames(b *Batch) (frames []entryFrame, err error) {
	places := make([]struct{ frame, kind, address int32 }, len(b.Kinds))
	for part := range slices.Chunk(b.Members, batchEntries) {
		frame, length := int32(len(frames)+1), frameHeader+batchHead+16 // the last address may be written too long
		for i := range part {
			place := &places[part[i].Kind]
			if place.address == 0 {
				place.address = int32(b.addressLen(part[i].Kind))
			}
			length += memberLen + int(place.address)
		}
		body := make([]byte, frameHeader+batchHead, length+256)
		kinds := int32(0)
		for i := range part {
			place := &places[part[i].Kind]
			if place.frame == frame {
				continue
			}
			if body, err = appendEntry(body, &b.Kinds[part[i].Kind]); err != nil {
				return nil, err
			}
			place.frame, place.kind = frame, kinds
			kinds++
		}
		at := len(body)
		length += at - frameHeader - batchHead
		body = slices.Grow(body, length-at)[:length]
		for i := range part {
			m, to := &part[i], body[at:at+memberLen+16]
			place := &places[m.Kind]
			binary.BigEndian.PutUint16(to, uint16(place.kind))
			binary.BigEndian.PutUint16(to[2:], m.Port)
			binary.BigEndian.PutUint32(to[4:], m.Idle)
			*(*[16]byte)(to[memberLen:]) = m.Client
			at += memberLen + int(place.address) // what is longer than the address is written over
		}
		body = body[:at]
		binary.BigEndian.PutUint32(body, frameBatch<<24|uint32(len(body)-frameHeader))
		binary.BigEndian.PutUint16(body[frameHeader:], uint16(kinds))
		binary.BigEndian.PutUint16(body[frameHeader+2:], memberLen)
		frames = append(frames, entryFrame{body, len(part)})
	}
	return frames, nil
}

var errBatch = errors.New("batch that does not fit its frame")

// parseBatch decodes the body of a frame of a batch into b. Kinds without a meaning
// here are left out with their members, bytes behind what is known of a member are
// skipped.
func parseBatch(b *Batch, body []byte) (err error) {
	b.Reset()
	if len(body) < batchHead {
		return errBatch
	}
	count, length := int(binary.BigEndian.Uint16(body)), int(binary.BigEndian.Uint16(body[2:]))
	body = body[batchHead:]
	if length < memberLen {
		return errBatch
	}
	if count > len(body)/(2+recordLen4+entryTail) {
		return errBatch
	}
	isKnown, lengths := make([]bool, count), make([]int, count)
	for i := range isKnown {
		var e Entry
		if body, isKnown[i], err = parseEntry(&e, body); err != nil {
			return err
		}
		lengths[i] = b.addressLen(b.AddKind(e))
	}
	b.Members = slices.Grow(b.Members, len(body)/(length+4))
	for len(body) > 0 {
		if len(body) < length {
			return errBatch
		}
		m := Member{
			Kind: uint32(binary.BigEndian.Uint16(body)), Port: binary.BigEndian.Uint16(body[2:]),
			Idle: binary.BigEndian.Uint32(body[4:]),
		}
		if int(m.Kind) >= count || len(body) < length+lengths[m.Kind] {
			return errBatch
		}
		copy(m.Client[:], body[length:length+lengths[m.Kind]])
		body = body[length+lengths[m.Kind]:]
		if isKnown[m.Kind] {
			b.Members = append(b.Members, m)
		}
	}
	return nil
}
