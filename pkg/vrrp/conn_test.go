package vrrp

import (
	"bytes"
	"testing"
)

// packet4 is an IPv4 datagram as a raw socket delivers it.
const packet4 = "45c0 0020 0001 0000 ff70 0000 0a630001 e0000012" + "31339601000a43070a630064"

func TestParseIPv4(t *testing.T) {
	wire := unhex(t, packet4)
	want := datagram{src: addrA, dst: Group4, ttl: 255, payload: wire[20:]}
	padded := append(bytes.Clone(wire), make([]byte, 14)...)
	options := append(append([]byte{0x46, 0xc0, 0, 0x24}, wire[4:20]...), 1, 1, 1, 1)
	options = append(options, wire[20:]...)
	for name, b := range map[string][]byte{"plain": wire, "with padding": padded, "with options": options} {
		got := parseIPv4(b)
		if got.src != want.src || got.dst != want.dst || got.ttl != want.ttl || !bytes.Equal(got.payload, want.payload) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": wire[:19], "cut": wire[:len(wire)-1],
		"IPv6":       append([]byte{0x60}, wire[1:]...),
		"tiny IHL":   append([]byte{0x44}, wire[1:]...),
		"huge IHL":   append([]byte{0x4f}, wire[1:]...),
		"tiny total": append([]byte{0x45, 0, 0, 10}, wire[4:]...),
	} {
		if got := parseIPv4(b); got.payload != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzParseIPv4(f *testing.F) {
	f.Add(unhex(f, packet4))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d := parseIPv4(b); len(d.payload) > len(b)-20 && d.payload != nil {
			t.Fatalf("%d bytes of payload in %d", len(d.payload), len(b))
		}
	})
}
