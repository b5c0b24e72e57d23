package judge

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

// TestRouterFrames: what a router says quotes the outer header, and what the client is
// told its own packet; both are whole, with right checksums.
func TestRouterFrames(t *testing.T) {
	request4, err := onearm.Packet{Src: netip.MustParseAddrPort("172.16.0.5:1000"), Dst: netip.MustParseAddrPort("10.0.0.100:80"), Flags: "S", Payload: []byte{7}}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range [][]byte{request4, frame6(t, 1)} {
		inner := request[14:]
		outer4, outer6 := make([]byte, 20), make([]byte, 40)
		proto := map[byte]byte{4: protoIPIP, 6: protoIPv6}[inner[0]>>4]
		ipHeader(outer4, proto, 20+len(inner), 63, onearm.Director, onearm.Real(1))
		ipv6Header(outer6, proto, len(inner), 63, onearm.Director6, onearm.Real6(1))
		for _, outer := range [][]byte{outer4, outer6} {
			sent := slices.Concat(onearm.RealMAC(1), onearm.DirectorMAC, []byte{8, 0}, outer, inner)
			if len(outer) == 40 {
				sent[12], sent[13] = 0x86, 0xdd
			}
			said := routerFrame(sent, [2]byte{3, 1}, 0)
			testMessage(t, said, map[int]string{20: "10.0.0.200", 40: "2001:db8::200"}[len(outer)], sent[14:])
			relayed := answerTo(sent[14+len(outer):], [2]byte{3, 1}, 1300)
			testMessage(t, relayed, map[byte]string{4: "10.0.0.100", 6: "2001:db8::100"}[inner[0]>>4], inner)
		}
	}
}

// testMessage looks at an ICMP message in a frame.
func testMessage(t *testing.T, frame []byte, from string, quoted []byte) {
	t.Helper()
	names := strings.Join(kinds(t, frame)[:2], " ")
	at, src := 34, frame[26:30]
	want := "IPv4 ICMPv4"
	pseudo := []byte(nil)
	if isIPv6(frame) {
		length := len(frame) - ipv6End
		at, src, want = ipv6End, frame[22:38], "IPv6 ICMPv6"
		pseudo = slices.Concat(frame[22:ipv6End], []byte{0, 0, byte(length >> 8), byte(length), 0, 0, 0, protoICMPv6})
	}
	if a, _ := netip.AddrFromSlice(src); a.String() != from || names != want {
		t.Errorf("%s from %s, want %s from %s", names, a, want, from)
	}
	if ipChecksum(even(append(pseudo, frame[at:]...))) != 0 || !bytes.Equal(frame[at+8:], quoted) {
		t.Errorf("%x: a wrong checksum, or another quote than %x", frame[at:], quoted)
	}
}
