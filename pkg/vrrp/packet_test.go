package vrrp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var (
	addrA = netip.MustParseAddr("10.99.0.1")
	addrB = netip.MustParseAddr("10.99.0.2")
	vip   = netip.MustParseAddr("10.99.0.100")
)

var cmpAddrs = cmpopts.EquateComparable(netip.Addr{})

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectors are what keepalived 2.2.7 put on the wire (vrrp-facts/keepalived-wire).
var vectors = []struct {
	name     string
	hex      string
	src, dst netip.Addr
	want     Packet
}{
	{
		"v2 password multicast", "21 33 96 01 01 01 01b7 0a630064 7333637233743132", addrA, Group4,
		Packet{Version: 2, VRID: 51, Priority: 150, Interval: time.Second, Auth: AuthSimple, Password: [8]byte([]byte("s3cr3t12")), Addrs: []netip.Addr{vip}},
	},
	{
		"v2 password unicast", "21 33 96 01 01 01 01b7 0a630064 7333637233743132", addrA, addrB,
		Packet{Version: 2, VRID: 51, Priority: 150, Interval: time.Second, Auth: AuthSimple, Password: [8]byte([]byte("s3cr3t12")), Addrs: []netip.Addr{vip}},
	},
	{
		"v2 no authentication", "21 33 96 01 00 01 3e03 0a630064 0000000000000000", addrA, Group4,
		Packet{Version: 2, VRID: 51, Priority: 150, Interval: time.Second, Addrs: []netip.Addr{vip}},
	},
	{
		"v2 resignation", "21 33 00 01 01 01 97b7 0a630064 7333637233743132", addrA, Group4,
		Packet{Version: 2, VRID: 51, Interval: time.Second, Auth: AuthSimple, Password: [8]byte([]byte("s3cr3t12")), Addrs: []netip.Addr{vip}},
	},
	{
		"v2 inside an authentication header", "21 33 96 01 02 01 3c03 0a630064 0000000000000000", addrA, Group4,
		Packet{Version: 2, VRID: 51, Priority: 150, Interval: time.Second, Auth: 2, Addrs: []netip.Addr{vip}},
	},
	{
		"v3 multicast 0.1 s", "31 33 96 01 000a 4307 0a630064", addrA, Group4,
		Packet{Version: 3, VRID: 51, Priority: 150, Interval: 100 * time.Millisecond, Addrs: []netip.Addr{vip}},
	},
	{
		"v3 unicast 1 s", "31 33 96 01 0064 185b 0a630064", addrA, addrB,
		Packet{Version: 3, VRID: 51, Priority: 150, Interval: time.Second, Addrs: []netip.Addr{vip}},
	},
	{
		"v3 resignation", "31 33 00 01 000a d907 0a630064", addrA, Group4,
		Packet{Version: 3, VRID: 51, Interval: 100 * time.Millisecond, Addrs: []netip.Addr{vip}},
	},
	{
		// The capture's notes do not name the sender's link-local address;
		// this one has the sum that the recorded checksum needs.
		"v3 IPv6 1 s", "31 33 96 02 0064 3c6d fe800000000000000000000000050100 fd990000000000000000000000000100",
		linkLocalFor(0x3c6d), Group6,
		Packet{Version: 3, VRID: 51, Priority: 150, Interval: time.Second, Addrs: []netip.Addr{
			netip.MustParseAddr("fe80::5:100"), netip.MustParseAddr("fd99::100")}},
	},
}

// linkLocalFor finds the low word of fe80::x for which the IPv6 vector has
// the given checksum.
func linkLocalFor(want uint16) netip.Addr {
	p := Packet{Version: 3, VRID: 51, Priority: 150, Interval: time.Second, Addrs: []netip.Addr{
		netip.MustParseAddr("fe80::5:100"), netip.MustParseAddr("fd99::100")}}
	for x := range 1 << 16 {
		src := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(x >> 8), 15: byte(x)})
		b, _ := p.Append(nil, src, Group6)
		if uint16(b[6])<<8|uint16(b[7]) == want {
			return src
		}
	}
	return netip.Addr{}
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			wire := unhex(t, v.hex)
			got, err := Parse(wire, v.src, v.dst)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(v.want, got, cmpAddrs); diff != "" {
				t.Errorf("parsed (-want +got):\n%s", diff)
			}
			b, err := v.want.Append(nil, v.src, v.dst)
			if err != nil || !bytes.Equal(b, wire) {
				t.Errorf("encoded %x, %v; want %x", b, err, wire)
			}
		})
	}
}

func TestParseRejects(t *testing.T) {
	v2, v3 := vectors[0], vectors[5]
	tests := []struct {
		name string
		of   string
		dst  netip.Addr
		edit func(b []byte) []byte
		want Reason
	}{
		{"empty", v3.hex, Group4, func(b []byte) []byte { return nil }, BadLength},
		{"header cut", v3.hex, Group4, func(b []byte) []byte { return b[:7] }, BadLength},
		{"address cut", v3.hex, Group4, func(b []byte) []byte { return b[:11] }, BadLength},
		{"password cut", v2.hex, Group4, func(b []byte) []byte { return b[:19] }, BadLength},
		{"trailing bytes", v2.hex, Group4, func(b []byte) []byte { return append(b, 0, 0) }, BadLength},
		{"no address", v3.hex, Group4, func(b []byte) []byte { b[3] = 0; return b[:8] }, BadLength},
		{"count too large", v3.hex, Group4, func(b []byte) []byte { b[3] = 2; return b }, BadLength},
		{"version 1", v3.hex, Group4, func(b []byte) []byte { b[0] = 0x11; return b }, BadVersion},
		{"version 4", v3.hex, Group4, func(b []byte) []byte { b[0] = 0x41; return b }, BadVersion},
		{"version 2 over IPv6", v2.hex, Group6, func(b []byte) []byte { return b }, BadVersion},
		{"type 2", v3.hex, Group4, func(b []byte) []byte { b[0] = 0x32; return b }, BadType},
		{"flipped bit", v3.hex, Group4, func(b []byte) []byte { b[2] ^= 1; return b }, BadChecksum},
		{"flipped password", v2.hex, Group4, func(b []byte) []byte { b[15] ^= 1; return b }, BadChecksum},
		{"other destination", v3.hex, addrB, func(b []byte) []byte { return b }, BadChecksum},
		{"interval 0", "31 33 96 01 0000 4311 0a630064", Group4, func(b []byte) []byte { return b }, BadInterval},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.edit(unhex(t, tt.of)), addrA, tt.dst)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAppendRefuses(t *testing.T) {
	v6 := netip.MustParseAddr("fd99::1")
	for name, p := range map[string]Packet{
		"version":        {Version: 1, Interval: time.Second, Addrs: []netip.Addr{vip}},
		"no addresses":   {Version: 3, Interval: time.Second},
		"256 addresses":  {Version: 3, Interval: time.Second, Addrs: make([]netip.Addr, 256)},
		"mixed":          {Version: 3, Interval: time.Second, Addrs: []netip.Addr{vip, v6}},
		"IPv6 in v2":     {Version: 2, Interval: time.Second, Addrs: []netip.Addr{v6}},
		"half a second":  {Version: 2, Interval: 500 * time.Millisecond, Addrs: []netip.Addr{vip}},
		"5 ms":           {Version: 3, Interval: 5 * time.Millisecond, Addrs: []netip.Addr{vip}},
		"41 s":           {Version: 3, Interval: 41 * time.Second, Addrs: []netip.Addr{vip}},
		"interval zero":  {Version: 3, Addrs: []netip.Addr{vip}},
		"five minutes":   {Version: 2, Interval: 5 * time.Minute, Addrs: []netip.Addr{vip}},
		"between counts": {Version: 3, Interval: 15 * time.Millisecond, Addrs: []netip.Addr{vip}},
	} {
		if b, err := p.Append([]byte{1}, addrA, Group4); err == nil || len(b) != 1 {
			t.Errorf("%s: %x, %v; want an error and the buffer as it was", name, b, err)
		}
	}
}

func genPacket(t *rapid.T) (p Packet, src, dst netip.Addr) {
	p = Packet{
		Version:  uint8(rapid.IntRange(2, 3).Draw(t, "version")),
		VRID:     rapid.Byte().Draw(t, "vrid"),
		Priority: rapid.Byte().Draw(t, "priority"),
	}
	size := 4
	if p.Version == 2 {
		p.Interval = time.Duration(rapid.IntRange(1, 255).Draw(t, "seconds")) * time.Second
		if rapid.Bool().Draw(t, "auth") {
			p.Auth = AuthSimple
			p.Password = [8]byte(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "password"))
		}
	} else {
		p.Interval = time.Duration(rapid.IntRange(1, 4095).Draw(t, "centiseconds")) * 10 * time.Millisecond
		size = rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
	}
	addr := func(label string) netip.Addr {
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, label))
		return a
	}
	for range rapid.IntRange(1, 255).Draw(t, "count") {
		p.Addrs = append(p.Addrs, addr("vip"))
	}
	return p, addr("src"), addr("dst")
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, src, dst := genPacket(t)
		b, err := p.Append(nil, src, dst)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b, src, dst)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got, cmpAddrs); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A checksum of ones' complement finds every changed bit.
func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, v := range vectors {
		wire := unhex(t, v.hex)
		for i := range len(wire) * 8 {
			wire[i/8] ^= 1 << (i % 8)
			if p, err := Parse(wire, v.src, v.dst); err == nil {
				t.Errorf("%s: bit %d flipped is accepted as %+v", v.name, i, p)
			}
			wire[i/8] ^= 1 << (i % 8)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.hex), v.dst.Is6())
	}
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		src, dst := addrA, Group4
		if six {
			src, dst = netip.MustParseAddr("fe80::1"), Group6
		}
		fix := bytes.Clone(b)
		if len(fix) >= headerLen { // let the fuzzer past the checksum
			sum := checksum(fix, fix[0]>>4, src, dst)
			fix[6], fix[7] = byte(sum>>8), byte(sum)
		}
		for _, wire := range [][]byte{b, fix} {
			p, err := Parse(wire, src, dst)
			if err != nil {
				var r Reason
				if !errors.As(err, &r) {
					t.Fatalf("error %v is no Reason", err)
				}
				continue
			}
			again, err := p.Append(nil, src, dst)
			if err != nil {
				t.Fatalf("parsed %+v cannot be encoded: %v", p, err)
			}
			q, err := Parse(again, src, dst)
			if err != nil || !cmp.Equal(p, q, cmpAddrs) {
				t.Fatalf("%+v came back as %+v, %v", p, q, err)
			}
		}
	})
}

// FuzzAppend goes the other way: whatever can be encoded is read back.
func FuzzAppend(f *testing.F) {
	f.Add(uint8(2), uint8(51), uint8(150), int64(time.Second), uint8(1), []byte("s3cr3t12"), []byte{10, 99, 0, 100}, false)
	f.Add(uint8(3), uint8(51), uint8(0), int64(10*time.Millisecond), uint8(0), []byte(nil), make([]byte, 32), true)
	f.Fuzz(func(t *testing.T, version, vrid, priority uint8, interval int64, auth uint8, password, addrs []byte, six bool) {
		p := Packet{Version: version, VRID: vrid, Priority: priority, Interval: time.Duration(interval)}
		if version == 2 && auth%2 == 1 {
			p.Auth = AuthSimple
			copy(p.Password[:], password)
		}
		src, dst, size := addrA, Group4, 4
		if six {
			src, dst, size = netip.MustParseAddr("fe80::1"), Group6, 16
		}
		for ; len(addrs) >= size; addrs = addrs[size:] {
			a, _ := netip.AddrFromSlice(addrs[:size])
			p.Addrs = append(p.Addrs, a)
		}
		b, err := p.Append(nil, src, dst)
		if err != nil {
			return
		}
		if q, err := Parse(b, src, dst); err != nil || !cmp.Equal(p, q, cmpAddrs) {
			t.Fatalf("%+v came back as %+v, %v", p, q, err)
		}
	})
}
