package xdp

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// newHold is a holder without its loop.
func newHold(t *testing.T) (*harness, *holder) {
	t.Helper()
	h := newStill(t, 4096, 64)
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	hold, err := newHolder(h.Backend)
	must(t, err)
	t.Cleanup(hold.close)
	return h, hold
}

// sampleOf is what the packet path hands out of a frame (struct held_frame).
func sampleOf(in []byte) []byte {
	b := append([]byte(nil), in[26:34]...)                  // source, destination
	b = append(b, in[18:20]...)                             // identification
	b = binary.NativeEndian.AppendUint16(b, uint16(in[23])) // protocol
	b = binary.NativeEndian.AppendUint32(b, ingress)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(in)))
	return append(b, in...)
}

// However many fragments come without their first: what is held is bounded in
// bytes, and forgotten after a second.
func TestHeldFragmentsAreBounded(t *testing.T) {
	_, hold := newHold(t)
	synctest.Test(t, func(t *testing.T) {
		for id := range uint16(20_000) {
			hold.hold(sampleOf(fragments(id)[1]))
		}
		if hold.bytes > holdBytes || hold.bytes < holdBytes-2048 {
			t.Errorf("%d bytes are held, want nearly %d", hold.bytes, holdBytes)
		}
		time.Sleep(holdTime - time.Millisecond)
		hold.releaseNoted()
		if hold.bytes < holdBytes-2048 {
			t.Errorf("%d bytes are left too early", hold.bytes)
		}
		time.Sleep(2 * time.Millisecond)
		hold.releaseNoted()
		if hold.bytes != 0 || len(hold.held) != 0 {
			t.Errorf("%d bytes of %d datagrams are held for longer than %s", hold.bytes, len(hold.held), holdTime)
		}
		hold.hold(sampleOf(fragments(1)[1]))
		if hold.bytes == 0 {
			t.Error("nothing is held any more")
		}
	})
}

// ipvs-facts/05 section 8, reversed order: a fragment that is held goes when
// its first has come; one whose first came in between goes at once.
func TestHeldFragmentsFollowTheirFirst(t *testing.T) {
	h, hold := newHold(t)
	early, other := fragments(1), fragments(2)
	hold.hold(sampleOf(early[1]))
	hold.hold(sampleOf(early[2]))
	hold.hold(sampleOf(other[1]))
	hold.releaseNoted()
	if len(hold.held) != 2 {
		t.Fatalf("%d datagrams are held, want 2", len(hold.held))
	}
	h.want(early[0], "forwarded", tx)
	hold.releaseNoted()
	if len(hold.held) != 1 || hold.bytes != len(other[1]) {
		t.Errorf("%d datagrams, %d bytes are held after the first of one has come", len(hold.held), hold.bytes)
	}
	hold.hold(sampleOf(early[2]))
	if len(hold.held) != 1 {
		t.Error("a fragment is held whose first was there")
	}
	h.dp.Settings.Clock += uint64(ticks(bpf.FragmentSeconds*time.Second)) + 1
	again := fragments(1)[2] // the identification comes round: another datagram
	hold.hold(sampleOf(again))
	if len(hold.held) != 2 {
		t.Error("a fragment follows the first of a datagram of long ago")
	}
	h.want(early[0], "forwarded", tx)
	hold.releaseNoted()
	for _, broken := range [][]byte{nil, sampleOf(early[1])[:heldHeader-1], sampleOf(early[1])[:60]} {
		hold.hold(broken)
	}
	if hold.bytes != len(other[1]) {
		t.Errorf("%d bytes are held after broken samples", hold.bytes)
	}
}

// The daemon does to a fragment what the packet path does.
func TestHeldFragmentsLeaveAsOthers(t *testing.T) {
	h, _ := newHold(t)
	real := &h.dp.Reals[h.services["web"].reals[lb.Real{Addr: realN(1)}.Key()].slot]
	for ttl := 2; ttl < 256; ttl++ {
		for _, tags := range [][]uint16{nil, {0x8100}, {0x88a8, 0x8100}} {
			parts := fragments(uint16(ttl))
			for i := range parts {
				parts[i][22] = byte(ttl)
				binary.BigEndian.PutUint16(parts[i][24:], ipSum(parts[i][14:34]))
			}
			first, rest := tagged(parts[0], tags...), tagged(parts[1], tags...)
			h.want(first, "forwarded", tx)
			want := h.want(rest, "forwarded", tx)
			if _, ok := readdress(rest, real); !ok || !bytes.Equal(rest, want) {
				t.Fatalf("TTL %d, tags %x:\n%x, the packet path sends\n%x", ttl, tags, rest[:40], want[:40])
			}
		}
	}
	last := fragments(1)[1]
	last[22] = 1
	if _, ok := readdress(last, real); ok {
		t.Error("a fragment of TTL 1 was sent on")
	}
}

// A note of long ago says nothing of a datagram that has the same
// identification: neither that it went to a real, nor that it was for this
// host.
func TestOldNotesAreNotFollowed(t *testing.T) {
	h, _ := newHold(t)
	served, own := fragments(1), fragments(2)
	binary.BigEndian.PutUint16(own[0][36:], 81)
	h.want(served[0], "forwarded", tx)
	h.want(own[0], "no_listener", pass)
	h.dp.Settings.Clock += uint64(ticks(bpf.FragmentSeconds * time.Second))
	h.want(served[1], "forwarded", tx)
	h.want(own[1], "no_listener", pass)
	h.dp.Settings.Clock++
	h.want(served[1], "fragment_lost", drop)
	h.want(own[1], "fragment_lost", drop)
}

// Replies that cannot be sent fill no log.
func TestComplaintsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := &holder{b: &Backend{log: slog.New(slog.NewTextHandler(&out, nil))}, raw: -1}
		reply := natPacket{proto: lb.TCP, src: natReal, dst: client, flags: "A"}.frame()
		for range 1000 {
			h.sendReply(reply)
		}
		time.Sleep(complaintInterval)
		h.sendReply(reply)
		if n := strings.Count(out.String(), "whose way is not known"); n != 2 || !strings.Contains(out.String(), "unlogged=999") {
			t.Errorf("%d lines:\n%s", n, out.String())
		}
	})
}

// ICMP speaks of no later fragment (RFC 1122, 3.2.2; icmp_send), whatever its own TTL and length are.
func TestNoAnswerAboutALaterFragment(t *testing.T) {
	h := serving(t, lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(1)}})
	datagram := fragments(1)
	h.want(datagram[0], "forwarded", tx)
	datagram[1][22] = 1
	binary.BigEndian.PutUint16(datagram[1][24:], ipSum(datagram[1][14:34]))
	h.want(datagram[1], "ttl_silent", drop)
	near := h.net.Lookup(realN(1))
	near.MTU = len(datagram[0]) - 14
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): near}
	h.apply(h.state)
	datagram[2][20] |= 0x40
	binary.BigEndian.PutUint16(datagram[2][24:], ipSum(datagram[2][14:34]))
	h.want(datagram[2], "too_big", drop)
}
