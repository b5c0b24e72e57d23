package judge

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

var ends6 = endpoints{proto: lb.TCP, src: netip.MustParseAddrPort("[2001:db8:1::5]:1000"), dst: netip.MustParseAddrPort("[2001:db8::100]:80")}

func frame6(t *testing.T, payload int) []byte {
	t.Helper()
	b, err := onearm.Packet{Src: ends6.src, Dst: ends6.dst, Flags: "S", Payload: bytes.Repeat([]byte{7}, payload)}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// kinds are a packet's headers from IPv6's on, as another decoder reads them.
func kinds(t *testing.T, frame []byte) (names []string) {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Errorf("%x: %v", frame, e.Error())
	}
	for _, l := range p.Layers()[1:] {
		names = append(names, l.LayerType().String())
	}
	return names
}

// TestBehindHeaders: each chain is what it says, in front of the same packet.
func TestBehindHeaders(t *testing.T) {
	frame := frame6(t, 20)
	if got := strings.Join(kinds(t, behindHeaders(frame, []byte{0, 43, 60})), " "); got != "IPv6 IPv6HopByHop IPv6Routing IPv6Destination TCP Payload" {
		t.Error(got)
	}
	for _, chain := range extensionChains {
		got := behindHeaders(frame, chain)
		next, at := got[20], ipv6End
		for i, kind := range chain {
			if next != kind {
				t.Fatalf("%d: header %d is of kind %d", chain, i, next)
			}
			size := (int(got[at+1]) + 1) * 8
			if kind == protoAuth {
				size = (int(got[at+1]) + 2) * 4
			}
			next, at = got[at], at+size
		}
		if next != byte(lb.TCP) || !bytes.Equal(got[at:], frame[ipv6End:]) || int(binary.BigEndian.Uint16(got[18:])) != len(got)-ipv6End {
			t.Errorf("%d: %x", chain, got)
		}
	}
}

// TestFragments6: two fragments make the packet, and their identification alone
// means nothing.
func TestFragments6(t *testing.T) {
	frame := frame6(t, 100)
	both := fragments6(frame, 77)
	var datagram []byte
	for i, f := range both {
		if got := strings.Join(kinds(t, f)[:2], " "); got != "IPv6 IPv6Fragment" {
			t.Errorf("%d: %s", i, got)
		}
		if word := binary.BigEndian.Uint16(f[ipv6End+2:]); int(word&^7) != len(datagram) || word&1 != uint16(1-i) {
			t.Errorf("%d: offset %#x behind %d bytes", i, word, len(datagram))
		}
		datagram = append(datagram, f[ipv6End+8:]...)
	}
	if !bytes.Equal(datagram, frame[ipv6End:]) {
		t.Errorf("%x from %x", datagram, frame)
	}
	seen := func(f []byte) string {
		return string(comparable(onearm.Seen{Real: 1, Frame: gopacket.NewPacket(slices.Clone(f), layers.LayerTypeEthernet, gopacket.Default)}))
	}
	others := fragments6(frame, 78)
	if seen(both[0]) != seen(others[0]) || seen(append(slices.Clone(both[1]), 0, 0)) != seen(others[1]) {
		t.Error("identification or padding made a difference")
	}
	others[0][ipv6End+9]++
	if seen(both[0]) == seen(others[0]) {
		t.Error("another port made none")
	}
}

// TestNamesOfIPv6: what a director answers is called by its kind.
func TestNamesOfIPv6(t *testing.T) {
	reset, err := onearm.Packet{Src: ends6.dst, Dst: ends6.src, Flags: "RA"}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for want, frame := range map[string][]byte{"ICMPv6 1/4": icmpAbout6(ends6, 1, 4, 64), "RST": reset, "frame": frame6(t, 0)} {
		if got := nameOf(onearm.Seen{Frame: gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)}); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := strings.Join(kinds(t, icmpAbout6(ends6, 1, 4, 64))[:2], " "); got != "IPv6 ICMPv6" {
		t.Error(got)
	}
}

// TestComparableTunnels: of a tunnel's outer headers padding, the port that GUE comes from
// and, where the packet may be fragmented, the identification mean nothing; all else does,
// whichever family is in which.
func TestComparableTunnels(t *testing.T) {
	inner4 := icmpAbout(endpoints{proto: lb.UDP, src: netip.MustParseAddrPort("172.16.0.5:1000"), dst: netip.MustParseAddrPort("10.0.0.100:80")}, 3, 3, 64)[14:]
	inner6 := icmpAbout6(ends6, 1, 4, 64)[14:]
	for _, inner := range [][]byte{inner4, inner6} {
		for proto, between := range map[byte][]byte{protoIPIP: nil, 17: {0x90, 1, 0x17, 0xc0, 0, 20, 0, 0, 0, 4, 0, 0}, protoGRE: {0, 0, 8, 0}} {
			outer4, outer6 := make([]byte, 20), make([]byte, 40)
			ipHeader(outer4, proto, 20+len(between)+len(inner), 63, onearm.Director, onearm.Real(1))
			ipv6Header(outer6, proto, len(between)+len(inner), 63, onearm.Director6, onearm.Real6(1))
			for _, outer := range [][]byte{outer4, outer6} {
				frame := slices.Concat(onearm.RealMAC(1), onearm.DirectorMAC, []byte{8, 0}, outer, between, inner, []byte{0, 0})
				if len(outer) == 40 {
					frame[12], frame[13] = 0x86, 0xdd
				}
				testComparableTunnel(t, frame, 14+len(outer), proto)
			}
		}
	}
}

func testComparableTunnel(t *testing.T, frame []byte, at int, proto byte) {
	t.Helper()
	seen := func(change func(b []byte)) string {
		b := slices.Clone(frame)
		change(b)
		return string(comparable(onearm.Seen{Real: 1, Frame: gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)}))
	}
	unchanged := seen(func([]byte) {})
	if unchanged != seen(func(b []byte) { b[len(b)-1]++ }) {
		t.Errorf("%x: padding made a difference", frame)
	}
	if proto == 17 && unchanged != seen(func(b []byte) { b[at], b[at+1] = 0xc0, 7 }) {
		t.Errorf("%x: the port that GUE comes from made a difference", frame)
	}
	for what, i := range map[string]int{"the MAC": 5, "the TTL": map[int]int{34: 22, 54: 21}[at], "the real": at - 1, "what is carried": len(frame) - 9} {
		if unchanged == seen(func(b []byte) { b[i]++ }) {
			t.Errorf("%x: %s made no difference", frame, what)
		}
	}
}
