package judge

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// A routerError is what a router on a tunnel's way says, by type and code, and what
// clients of each family are told then (RFC 7915, sections 4.2 and 5.2); none is
// nothing.
type routerError struct{ said, to4, to6 [2]byte }

var (
	none = [2]byte{0, 0} // an echo reply, which is no error

	tooBig  = [2]byte{3, 4}
	tooBig6 = [2]byte{2, 0}
)

// routerErrors are those about outer headers of IPv4 (false) and of IPv6 (true).
var routerErrors = map[bool][]routerError{
	false: {
		{[2]byte{3, 1}, [2]byte{3, 1}, [2]byte{1, 0}},
		{[2]byte{3, 2}, [2]byte{3, 2}, [2]byte{1, 3}},
		{[2]byte{3, 3}, [2]byte{3, 3}, [2]byte{1, 4}},
		{tooBig, tooBig, tooBig6}, {tooBig, tooBig, tooBig6},
		{[2]byte{3, 13}, [2]byte{3, 13}, [2]byte{1, 1}},
		{[2]byte{3, 14}, [2]byte{3, 14}, none},
		{[2]byte{11, 0}, [2]byte{11, 0}, [2]byte{3, 0}},
		{[2]byte{11, 1}, [2]byte{11, 1}, [2]byte{3, 1}},
		{[2]byte{4, 0}, [2]byte{4, 0}, none},
		{[2]byte{12, 0}, none, none},
	},
	true: {
		{[2]byte{1, 0}, [2]byte{3, 1}, [2]byte{1, 0}},
		{[2]byte{1, 1}, [2]byte{3, 10}, [2]byte{1, 1}},
		{[2]byte{1, 3}, [2]byte{3, 1}, [2]byte{1, 3}},
		{[2]byte{1, 4}, [2]byte{3, 3}, [2]byte{1, 4}},
		{tooBig6, tooBig, tooBig6}, {tooBig6, tooBig, tooBig6},
		{[2]byte{3, 0}, [2]byte{11, 0}, [2]byte{3, 0}},
		{[2]byte{3, 1}, [2]byte{11, 1}, [2]byte{3, 1}},
		{[2]byte{4, 1}, [2]byte{3, 1}, [2]byte{1, 3}}, // a problem of the outer header
		{[2]byte{129, 0}, none, none},
	},
}

// routerSays has a router on the way say something of what both sides have just sent
// through a tunnel. What the client is told is known; the kernel tells it of IPv4 in
// IPv4 only, and a size that is its own (see semantics.md, Tunnels).
func (t *trial) routerSays(e endpoints, kernel, xdp []byte) error {
	outer6, inner := outerLen(kernel[14:]) == 40, overheadOf(kernel[14:])
	inner6 := kernel[14+inner]>>4 == 6
	r := pick(t.rnd, routerErrors[outer6]...)
	mtu := 0
	if r.said == tooBig && !outer6 || r.said == tooBig6 && outer6 {
		mtu = pick(t.rnd, 1290, 1300, 1400, 1499)
	}
	relayed := r.to4
	if inner6 {
		relayed = r.to6
	}
	if t.keepsNothing(e) || isICMP(kernel[14+inner:]) {
		relayed = none
	}
	t.report.Events["router's error"]++
	answer := ""
	if relayed != none {
		answer = string(answerTo(xdp[14+inner:], relayed, sizeLeft(mtu, inner, inner6))) + "|"
	}
	what := fmt.Sprintf("a router says %d/%d of this, %d bytes", r.said[0], r.said[1], mtu)
	got, err := t.xdp.sendAndWait(routerFrame(xdp, r.said, mtu), relayed != none)
	if err != nil {
		return err
	}
	t.say("%s: %s", what, got.name)
	if got.bytes != answer {
		return fmt.Errorf("%s: lvx\n%x, want\n%x", what, got.bytes, answer)
	}
	want, err := t.kernel.sendAndWait(routerFrame(kernel, r.said, mtu), false)
	if err != nil {
		return err
	}
	if outer6 || inner6 {
		answer = ""
	}
	isSame := sizeless(want.bytes, mtu) == sizeless(answer, mtu)
	if isMissed := want.bytes == "" && t.isAmbiguous(int(kernel[5])); !isSame && !isMissed {
		return fmt.Errorf("%s: kernel\n%x, want\n%x", what, want.bytes, answer)
	}
	return nil
}

// keepsNothing reports whether a packet leaves no connection, of which an error could be.
func (t *trial) keepsNothing(e endpoints) bool {
	var best lb.Service
	width := 1 << 17
	for _, s := range t.state.Services {
		for _, l := range s.Listeners {
			if l.Addr == e.dst.Addr() && l.Proto == e.proto && l.Contains(e.dst.Port()) && l.Width() < width {
				best, width = s, l.Width()
			}
		}
	}
	return best.OnePacket && e.proto == lb.UDP
}

// isAmbiguous reports whether services have a real of IPv4 in tunnels of several kinds:
// the kernel takes the first that it finds for that of an error (ip_vs_find_tunnel).
func (t *trial) isAmbiguous(number int) bool {
	kinds := map[string]bool{}
	for _, s := range t.state.Services {
		for _, r := range s.Reals {
			if r.Forward == lb.Tunnel && r.Addr == onearm.Real(number) {
				kinds[r.Way()] = true
			}
		}
	}
	return len(kinds) > 1
}

// isICMP reports whether a packet is an ICMP message, of which no error is told.
func isICMP(packet []byte) bool {
	if packet[0]>>4 == 6 {
		return packet[6] == protoICMPv6
	}
	return packet[9] == 1
}

// sizeLeft is what a tunnel leaves of the size of its way, and what a client can use.
func sizeLeft(mtu, overhead int, is6 bool) int {
	switch {
	case mtu == 0:
		return 0
	case is6:
		return max(mtu-overhead, 1280)
	}
	return mtu - overhead
}

// sizeless is an answer without the size that it tells, and its checksum.
func sizeless(answer string, mtu int) string {
	if mtu == 0 || len(answer) < 42 {
		return answer
	}
	b := []byte(answer)
	clear(b[36:38])
	clear(b[40:42])
	return string(b)
}

// sendAndWait is send for what the daemon answers, which takes its time.
func (s *side) sendAndWait(frame []byte, isAnswered bool) (outcome, error) {
	o, err := s.send(frame)
	for wait := 0; err == nil && o.bytes == "" && wait < 200; wait++ {
		time.Sleep(5 * time.Millisecond)
		o, err = s.send() // what has come meanwhile
		if !isAnswered && wait == 10 {
			break
		}
	}
	return o, err
}

// routerFrame is an ICMP error from the router to the director that quotes what it has
// sent.
func routerFrame(sent []byte, said [2]byte, mtu int) []byte {
	message := make([]byte, 8, 8+len(sent))
	message[0], message[1] = said[0], said[1]
	binary.BigEndian.PutUint32(message[4:], uint32(mtu))
	message = append(message, sent[14:]...)
	if sent[12] == 0x86 {
		return icmp6Frame(onearm.Router6.AsSlice(), onearm.Director6.AsSlice(), onearm.RouterMAC, onearm.DirectorMAC, message)
	}
	b := make([]byte, 34, 34+len(message))
	copy(b, onearm.DirectorMAC)
	copy(b[6:], onearm.RouterMAC)
	b[12] = 8
	ipHeader(b[14:], 1, 20+len(message), 64, onearm.Router, onearm.Director)
	binary.BigEndian.PutUint16(message[2:], ipChecksum(even(message)))
	return append(b, message...)
}

// answerTo is what the client whose packet was carried is told by the VIP, as comparable
// has it.
func answerTo(packet []byte, relayed [2]byte, size int) []byte {
	message := []byte{relayed[0], relayed[1], 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(message[4:], uint32(size))
	if packet[0]>>4 == 6 {
		message = append(message, packet[:min(len(packet), 1280-48)]...)
		return icmp6Frame(packet[24:40], packet[8:24], onearm.DirectorMAC, onearm.RouterMAC, message)
	}
	message = append(message, packet[:min(len(packet), 576-28)]...)
	binary.BigEndian.PutUint16(message[2:], ipChecksum(even(message)))
	b := slices.Concat(onearm.RouterMAC, onearm.DirectorMAC, []byte{8, 0, 0x45, 0xc0}, make([]byte, 18))
	binary.BigEndian.PutUint16(b[16:], uint16(20+len(message)))
	b[22], b[23] = 64, 1
	copy(b[26:], packet[16:20])
	copy(b[30:], packet[12:16])
	return append(b, message...)
}

// icmp6Frame is a message of ICMPv6, from and to an address.
func icmp6Frame(src, dst, srcMAC, dstMAC, message []byte) []byte {
	length := len(message)
	pseudo := slices.Concat(src, dst, []byte{0, 0, byte(length >> 8), byte(length), 0, 0, 0, protoICMPv6}, message)
	binary.BigEndian.PutUint16(message[2:], ipChecksum(even(pseudo)))
	header := []byte{0x60, 0, 0, 0, byte(length >> 8), byte(length), protoICMPv6, 64}
	return slices.Concat(dstMAC, srcMAC, []byte{0x86, 0xdd}, header, src, dst, message)
}

// even pads what a checksum is made over.
func even(b []byte) []byte { return append(slices.Clone(b), make([]byte, len(b)%2)...) }
