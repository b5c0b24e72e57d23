package xdp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
)

// Bounds of what is held for datagrams whose first fragment is late.
const (
	holdTime   = time.Second
	holdBytes  = 4 << 20
	holdPoll   = 5 * time.Millisecond
	heartbeat  = 500 * time.Millisecond
	aliveFor   = 2 * time.Second
	heldHeader = 20 // struct held_frame before its frame

	complaintInterval = time.Minute
)

// holder keeps fragments that came before their first, and sends them once
// the first has left a note where it went.
type holder struct {
	b      *Backend
	reader *ringbuf.Reader
	socket int // for frames,
	raw    int // and for IP packets
	held   map[bpf.FragmentKey][]heldFrame
	bytes  int

	complained time.Time // when a frame that could not be sent was last logged,
	unlogged   int       // and how many there were since
}

type heldFrame struct {
	frame []byte
	until time.Time
}

func newHolder(b *Backend) (*holder, error) {
	r, err := ringbuf.NewReader(b.dp.Maps.Held)
	if err != nil {
		return nil, fmt.Errorf("ring of held fragments: %w", err)
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		_ = r.Close()
		_ = unix.Close(s)
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	return &holder{b: b, reader: r, socket: s, raw: raw, held: map[bpf.FragmentKey][]heldFrame{}}, nil
}

func (h *holder) close() {
	_ = h.reader.Close()
	_ = unix.Close(h.socket)
	_ = unix.Close(h.raw)
}

// run holds and releases until ctx ends. The packet path hands fragments out
// only while it hears the heartbeat.
func (h *holder) run(ctx context.Context) {
	var nextHeartbeat, nextRelease time.Time
	defer store64(&h.b.dp.Settings.Alive, 0)
	for ctx.Err() == nil {
		now := time.Now()
		if now.After(nextHeartbeat) {
			h.sendHeartbeat()
			nextHeartbeat = now.Add(heartbeat)
		}
		if now.After(nextRelease) { // not with every fragment: there may be many, all alone
			h.releaseNoted()
			nextRelease = now.Add(holdPoll)
		}
		wait := heartbeat
		if len(h.held) > 0 {
			wait = holdPoll
		}
		h.reader.SetDeadline(time.Now().Add(wait))
		rec, err := h.reader.Read()
		switch {
		case err == nil:
			h.hold(rec.RawSample)
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			h.b.log.Error("ring of held fragments", "err", err)
			return
		}
	}
}

func (h *holder) sendHeartbeat() {
	now, err := h.b.dp.Jiffies()
	if err != nil {
		h.b.log.Error("heartbeat of the packet path", "err", err)
		return
	}
	store64(&h.b.dp.Settings.Alive, now+uint64(aliveFor/time.Second)*loader.HZ())
}

func (h *holder) hold(sample []byte) {
	if len(sample) < heldHeader {
		return
	}
	k := bpf.FragmentKey{
		Source:      binary.NativeEndian.Uint32(sample[0:]),
		Destination: binary.NativeEndian.Uint32(sample[4:]),
		ID:          binary.NativeEndian.Uint16(sample[8:]),
		Protocol:    binary.NativeEndian.Uint16(sample[10:]),
	}
	size := int(binary.NativeEndian.Uint32(sample[16:]))
	if size > len(sample)-heldHeader || h.bytes+size > holdBytes {
		return
	}
	if k.Protocol == 0 {
		h.sendReply(sample[heldHeader : heldHeader+size])
		return
	}
	f := heldFrame{append([]byte(nil), sample[heldHeader:heldHeader+size]...), time.Now().Add(holdTime)}
	if note, ok := h.note(k); ok { // the first came meanwhile
		h.send(note, []heldFrame{f})
		return
	}
	h.held[k] = append(h.held[k], f)
	h.bytes += size
}

// note tells where the first fragment of a datagram went, if it has come. An
// old note is of another datagram: identifications come round.
func (h *holder) note(k bpf.FragmentKey) (note bpf.Fragment, ok bool) {
	if h.b.dp.Maps.Fragments.Lookup(k, &note) != nil {
		return note, false
	}
	return note, uint16(h.b.now())-note.Tick <= uint16(ticks(bpf.FragmentSeconds*time.Second))
}

// releaseNoted sends what has a note by now and forgets what is too old.
func (h *holder) releaseNoted() {
	for k, frames := range h.held {
		note, noted := h.note(k)
		if noted {
			h.send(note, frames)
		}
		if noted || time.Now().After(frames[0].until) {
			for _, f := range frames {
				h.bytes -= len(f.frame)
			}
			delete(h.held, k)
		}
	}
}

func (h *holder) send(note bpf.Fragment, frames []heldFrame) {
	h.b.growing.RLock()
	defer h.b.growing.RUnlock()
	if note.Real >= uint32(len(h.b.dp.Reals)) {
		return // the first went to the kernel, which cannot use the rest alone, or was dropped
	}
	real := &h.b.dp.Reals[note.Real]
	if real.Flags&(bpf.RealThere|bpf.RealLocal) != bpf.RealThere || real.TenantGeneration() != uint8(note.Generation) {
		return // gone; or it is this host, whose stack cannot be sent a frame
	}
	for _, f := range frames {
		frame := h.addressed(f.frame, note.Real)
		if frame == nil {
			continue
		}
		frame, device := retag(frame, real.Ifindex)
		to := &unix.SockaddrLinklayer{Ifindex: device, Halen: 6}
		copy(to.Addr[:], real.MAC[:])
		if err := unix.Sendto(h.socket, frame, 0, to); err != nil {
			h.complain("a held fragment", err)
		}
	}
}

// retag does to a frame what bpf/vlan.h does, and gives the index of the interface that
// it leaves by.
func retag(frame []byte, way uint32) (out []byte, device int) {
	if !loader.IsTagged(way) {
		return frame, int(way)
	}
	const macs = 12
	head, rest := slices.Clone(frame[:macs]), frame[macs:]
	priority := byte(0)
	if isTag(frame[macs:]) {
		priority, rest = frame[ethernetLen]&0xf0, frame[macs+tagLen:]
	}
	if id := way >> bpf.WayVLANShift; id != bpf.Untagged {
		head = append(head, 0x81, 0, priority|byte(id>>8), byte(id))
	}
	return append(head, rest...), int(way & bpf.WayDevice)
}

// isTag reports whether bytes begin with the type of a VLAN tag.
func isTag(b []byte) bool { return b[0] == 0x81 && b[1] == 0 || b[0] == 0x88 && b[1] == 0xa8 }

// addressed is a frame as the packet path would send it to the real in a slot;
// nil if it must not be sent.
func (h *holder) addressed(frame []byte, slot uint32) []byte {
	real := &h.b.dp.Reals[slot]
	at, ok := readdress(frame, real)
	if !ok {
		return nil
	}
	switch real.Method() {
	case bpf.ForwardDr:
		return frame
	case bpf.ForwardNat:
		readdressPacket(frame[at:], h.b.addressOf(slot))
		return frame
	}
	return encapsulate(frame, at, real.Method(), &h.b.dp.Tunnels[slot], uint16(rand.Uint32()))
}

// headerOffset is where the IPv4 header of a frame is, behind its tags; 0 if it is not whole.
func headerOffset(frame []byte) int {
	at := ethernetLen
	for at+ipv4Len <= len(frame) && at <= 18 && isTag(frame[at-2:]) {
		at += tagLen
	}
	if at+ipv4Len > len(frame) {
		return 0
	}
	return at
}

// readdress does to a frame what forward_dr.h does, and gives the offset of its
// IPv4 header.
func readdress(frame []byte, real *bpf.Real) (at int, ok bool) {
	at = headerOffset(frame)
	if at == 0 || frame[at+8] <= 1 {
		return 0, false
	}
	copy(frame, real.MAC[:])
	copy(frame[6:], real.Source[:])
	frame[at+8]--
	sum := uint32(binary.BigEndian.Uint16(frame[at+10:])) + 0x0100
	if sum >= 0xffff {
		sum++
	}
	binary.BigEndian.PutUint16(frame[at+10:], uint16(sum))
	return at, true
}

// readdressPacket gives a later fragment another destination, as NAT does.
func readdressPacket(packet []byte, to netip.Addr) {
	a := to.As4()
	copy(packet[16:20], a[:])
	header := packet[:int(packet[0]&15)*4]
	binary.BigEndian.PutUint16(header[10:], 0)
	binary.BigEndian.PutUint16(header[10:], checksum(header))
}

// sendReply lets the kernel's stack send a reply by NAT, which is as it has to
// leave: it asks for the MAC that the packet path does not have.
func (h *holder) sendReply(frame []byte) {
	at := headerOffset(frame)
	if at == 0 {
		return
	}
	length := int(binary.BigEndian.Uint16(frame[at+2:]))
	if length < ipv4Len || at+length > len(frame) {
		return
	}
	to := &unix.SockaddrInet4{Addr: [4]byte(frame[at+16 : at+20])}
	if err := unix.Sendto(h.raw, frame[at:at+length], 0, to); err != nil {
		h.complain("a reply whose way is not known, to "+netip.AddrFrom4(to.Addr).String(), err)
	}
}

// complain logs a frame that could not be sent. Whoever sends frames could fill the
// log: it is one line in complaintInterval, which counts those that were left out.
func (h *holder) complain(what string, err error) {
	now := time.Now()
	if now.Sub(h.complained) < complaintInterval {
		h.unlogged++
		return
	}
	h.b.log.Warn("frame not sent", "frame", what, "err", err, "unlogged", h.unlogged)
	h.complained, h.unlogged = now, 0
}
