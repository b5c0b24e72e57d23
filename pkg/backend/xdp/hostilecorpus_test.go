package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// variations is a part of the corpus: it gives every frame of one kind.
type variations struct {
	name   string
	frames func(send func([]byte))
}

// stranger sends what is not of a known connection.
var stranger = netip.MustParseAddrPort("172.16.9.9:1234")

// settlers open the connections that the corpus plays with.
func settlers() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, e := range known() {
			for _, flags := range []string{"S", "A", "PA"} {
				if !yield("settler", frame(lb.Packet{Proto: e.proto, Src: e.src, Dst: e.dst, Flags: flags})) {
					return
				}
			}
		}
	}
}

// known are the connections that are there.
func known() (es []endpoints) {
	for _, to := range []netip.AddrPort{web, netip.AddrPortFrom(vips[0], 8050), netip.AddrPortFrom(vips[1], 22), byNAT, byTunnel} {
		es = append(es, endpoints{lb.TCP, client, to}, endpoints{lb.UDP, client, to})
	}
	return es
}

// goodFrames are what is mutilated: a frame of each kind.
func goodFrames() map[string][]byte {
	data := frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "PA"}, 100)
	open := frameOf(lb.Packet{Proto: lb.TCP, Src: stranger, Dst: web, Flags: "S"}, 0)
	datagram := frameOf(lb.Packet{Proto: lb.UDP, Src: client, Dst: web}, 30)
	first := fragments(3)[0]
	return map[string][]byte{
		"data": data, "SYN": open, "datagram": datagram,
		"options": withOptions(data, 3), "most options": withOptions(datagram, 10),
		"tag": tagged(data, 0x8100), "tags": tagged(open, 0x88a8, 0x8100),
		"error": icmpError(3, 4, lb.TCP, 0), "error with options": icmpError(11, 0, lb.UDP, 7),
		"first fragment": first, "ARP": append(append([]byte(nil), directorMAC[:]...), arpFor(1, client.Addr(), vip)[6:]...),
		"no real":     frame(lb.Packet{Proto: lb.UDP, Src: client, Dst: netip.AddrPortFrom(vips[2], 80)}),
		"no service":  frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(vips[2], 81), Flags: "A"}, 20),
		"nor for UDP": frameOf(lb.Packet{Proto: lb.UDP, Src: client, Dst: netip.AddrPortFrom(vips[2], 81)}, 20),
		"elsewhere":   frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.MustParseAddrPort("10.0.0.250:80"), Flags: "A"}, 20),
		"standby":     frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(standbyVIP, 80)}),
		"over":        frame(lb.Packet{Proto: lb.TCP, Src: client, Dst: netip.AddrPortFrom(overVIP, 80)}),
		"reply":       frameOf(lb.Packet{Proto: lb.TCP, Src: natReal, Dst: client, Flags: "PA"}, 20),
		"reply error": icmpErrorOf(3, 4, endpoints{lb.TCP, natReal, client}, 0),
		"jumbo":       frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "A"}, 8900),
	}
}

// each visits the good frames in one order.
func each(visit func(name string, in []byte)) {
	good := goodFrames()
	for _, name := range slices.Sorted(maps.Keys(good)) {
		visit(name, good[name])
	}
}

const smallest = 14 // the shortest frame that the kernel runs a program on

// ipAt is where a frame's IPv4 header begins, 0 if it has none.
func ipAt(f []byte) int {
	for at := 14; at+20 <= len(f) && at <= 22; at += 4 {
		if binary.BigEndian.Uint16(f[at-2:]) == 0x0800 {
			return at
		}
	}
	return 0
}

// mend makes the header's checksum right, so that nothing else is wrong.
func mend(f []byte) []byte {
	at := ipAt(f)
	if at == 0 {
		return f
	}
	n := int(f[at]&15) * 4
	if n < 20 || at+n > len(f) {
		return f
	}
	binary.BigEndian.PutUint16(f[at+10:], 0)
	binary.BigEndian.PutUint16(f[at+10:], ipSum(f[at:at+n]))
	return f
}

// with is a copy of a frame with one byte changed, from its IP header on.
func with(f []byte, offset int, b byte) []byte {
	c := bytes.Clone(f)
	c[ipAt(c)+offset] = b
	return mend(c)
}

func corpus() []variations {
	return []variations{
		{"cut at every byte", cutEverywhere},
		{"every header length", headerLengths},
		{"every length", lengths},
		{"every fragment offset", fragmentOffsets},
		{"every depth of tags", func(send func([]byte)) { tagDepthsOf(each, send) }},
		{"nested errors", nestedErrors},
		{"every value of a byte", byteValues},
		{"odd values everywhere", func(send func([]byte)) { oddValuesOf(each, send) }},
	}
}

// cutEverywhere cuts frames short, as they are and with a length that agrees.
func cutEverywhere(send func([]byte)) {
	each(func(_ string, in []byte) {
		for n := smallest; n <= min(len(in), 400); n++ {
			send(in[:n])
			if at := ipAt(in); at > 0 && n >= at+4 {
				short := bytes.Clone(in[:n])
				binary.BigEndian.PutUint16(short[at+2:], uint16(n-at))
				send(mend(short))
			}
		}
	})
}

// headerLengths gives IP and TCP every header length, true or not.
func headerLengths(send func([]byte)) {
	each(func(_ string, in []byte) {
		at := ipAt(in)
		if at == 0 {
			return
		}
		for version := range 16 {
			for ihl := range 16 {
				send(with(in, 0, byte(version<<4|ihl)))
			}
		}
		tcp := int(in[at]&15)*4 + 12
		if at+tcp >= len(in) {
			return
		}
		for offset := range 256 {
			send(with(in, tcp, byte(offset)))
		}
	})
}

// lengths gives IP and UDP every length up to some more than there is.
func lengths(send func([]byte)) {
	each(func(_ string, in []byte) {
		at := ipAt(in)
		if at == 0 {
			return
		}
		for _, field := range []int{2, int(in[at]&15)*4 + 4} {
			for n := range 300 {
				if at+field+2 > len(in) {
					return
				}
				c := bytes.Clone(in)
				binary.BigEndian.PutUint16(c[at+field:], uint16(n))
				send(mend(c))
				binary.BigEndian.PutUint16(c[at+field:], uint16(65535-n))
				send(mend(c))
			}
		}
	})
}

// fragmentOffsets sends every offset with every flag, after their first
// fragment and without one.
func fragmentOffsets(send func([]byte)) {
	send(fragments(3)[0])
	for _, in := range [][]byte{
		fragments(3)[1], fragments(4)[1], frameOf(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "A"}, 80), icmpError(3, 4, lb.TCP, 0),
	} {
		for word := range 1 << 16 {
			c := bytes.Clone(in)
			binary.BigEndian.PutUint16(c[20:], uint16(word))
			send(mend(c))
		}
	}
}

// tagDepthsOf puts none to five tags of every kind before frames, and cuts them.
func tagDepthsOf(each func(func(string, []byte)), send func([]byte)) {
	each(func(_ string, in []byte) {
		if len(in) > 400 {
			return
		}
		for depth := range 6 {
			for kind := range 1 << depth {
				var tags []uint16
				for i := range depth {
					tags = append(tags, []uint16{0x8100, 0x88a8}[kind>>i&1])
				}
				c := tagged(in, tags...)
				for n := smallest; n <= min(len(c), 80); n++ {
					send(c[:n])
				}
				send(c)
			}
		}
		send(tagged(in, 0x9100))
	})
}

// nestedErrors quotes errors in errors, with options, and cuts them.
func nestedErrors(send func([]byte)) {
	for _, e := range known() {
		for _, words := range []int{0, 1, 10} {
			in := icmpErrorOf(3, 4, e, words)
			for depth := range 5 {
				for typ := range 256 {
					c := bytes.Clone(in)
					c[34] = byte(typ)
					send(c)
				}
				for n := smallest; n <= len(in); n++ {
					send(in[:n])
				}
				in = quoting(in, depth*3)
			}
		}
	}
}

// quoting is an error that quotes a packet, whose addresses are turned as
// they would be if it came from the VIP, with so many words of options.
func quoting(in []byte, words int) []byte {
	inner := bytes.Clone(in)
	copy(inner[26:30], in[30:34])
	copy(inner[30:34], client.Addr().AsSlice())
	inner = withOptions(mend(inner), words%11)
	length := int(binary.BigEndian.Uint16(inner[16:]))
	out := append(bytes.Clone(in[:34]), 3, 1, 0, 0, 0, 0, 0, 0)
	out = append(out, inner[14:14+length]...)
	binary.BigEndian.PutUint16(out[16:], uint16(len(out)-14))
	return mend(out)
}

// byteValues gives the bytes that decide every value.
func byteValues(send func([]byte)) {
	each(func(_ string, in []byte) {
		at := ipAt(in)
		if at == 0 {
			return
		}
		l4 := int(in[at]&15) * 4
		for _, offset := range []int{1, 8, 9, 12, 13, 16, 19, l4, l4 + 3, l4 + 8, l4 + 13} {
			for v := range 256 {
				if at+offset < len(in) {
					send(with(in, offset, byte(v)))
				}
			}
		}
	})
}

// oddValuesOf puts each of some bytes everywhere.
func oddValuesOf(each func(func(string, []byte)), send func([]byte)) {
	each(func(_ string, in []byte) {
		for i := range min(len(in), 120) {
			for _, v := range []byte{0, 1, 0x45, 0x7f, 0x80, 0xff} {
				c := bytes.Clone(in)
				c[i] = v
				send(c)
				c[i] = in[i] ^ v
				send(mend(c))
			}
		}
	})
}

// noise makes frames at random: good ones, mutilated ones, and mere bytes.
type noise struct {
	*rand.Rand
	good [][]byte
}

func newNoise(seed uint64) *noise {
	n := &noise{Rand: rand.New(rand.NewPCG(seed, 1))}
	each(func(_ string, in []byte) {
		if len(in) < 2000 {
			n.good = append(n.good, in)
		}
	})
	each6(func(_ string, in []byte) {
		if len(in) < 2000 {
			n.good = append(n.good, in)
		}
	})
	for _, f := range fragments(3) {
		n.good = append(n.good, f)
	}
	for _, e := range known6() {
		n.good = append(n.good, frame6(lb.Packet{Proto: e.proto, Src: e.src, Dst: e.dst, Flags: "A"}, 5, 0, nil), errorOf6(1, e, hopByHop))
	}
	for _, e := range known() {
		n.good = append(n.good, frame(lb.Packet{Proto: e.proto, Src: e.src, Dst: e.dst, Flags: "A"}), icmpErrorOf(3, 1, e, 2))
	}
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} { // what the real by NAT sends
		for range 4 {
			n.good = append(n.good, frameOf(lb.Packet{Proto: proto, Src: natReal, Dst: client, Flags: "A"}, 9))
		}
		n.good = append(n.good, icmpErrorOf(3, 1, endpoints{proto, natReal, client}, 1))
	}
	for i := range uint16(8) { // by sh, so that each of its reals gets some, one of which is behind another interface
		n.good = append(n.good, frame(lb.Packet{Proto: lb.TCP, Src: nextTo(client, i), Dst: netip.AddrPortFrom(vips[0], 8050), Flags: "S"}),
			frame6(lb.Packet{Proto: lb.TCP, Src: nextTo(client6, i), Dst: netip.AddrPortFrom(vip6, 8050), Flags: "S"}, 0, 0, nil))
	}
	return n
}

// nextTo is a client some addresses further.
func nextTo(client netip.AddrPort, n uint16) netip.AddrPort {
	a := client.Addr()
	for range n {
		a = a.Next()
	}
	return netip.AddrPortFrom(a, client.Port())
}

func (n *noise) frame() (string, []byte) {
	if n.IntN(10) == 0 {
		return "noise", n.bytes()
	}
	in := bytes.Clone(n.good[n.IntN(len(n.good))])
	if n.IntN(3) == 0 { // another client
		if at := ipv6At(in); at > 0 {
			in[at+23] = byte(n.IntN(256))
		} else if ipAt(in) > 0 {
			in[ipAt(in)+15] = byte(n.IntN(256))
			mend(in)
		}
	}
	changes := n.IntN(4)
	for range changes {
		n.change(&in)
	}
	if n.IntN(4) > 0 {
		mend(in)
	}
	return fmt.Sprintf("frame with %d changes", changes), in
}

// bytes is mere noise, often for our MAC, and often called IPv4 or IPv6.
func (n *noise) bytes() []byte {
	b := make([]byte, smallest+n.IntN(200))
	for i := range b {
		b[i] = byte(n.Uint32())
	}
	if n.IntN(4) > 0 {
		copy(b, directorMAC[:])
		copy(b[12:], [][]byte{{8, 0, 0x45}, {0x86, 0xdd, 0x60}}[n.IntN(2)])
	}
	if n.IntN(2) == 0 && len(b) >= 54 {
		if b[12] == 8 {
			copy(b[30:], vips[n.IntN(3)].AsSlice())
		} else {
			copy(b[38:], vips6[n.IntN(3)].AsSlice())
		}
	}
	return b
}

// change does one thing to a frame.
func (n *noise) change(in *[]byte) {
	b := *in
	i := n.IntN(len(b))
	if n.IntN(2) == 0 {
		i = min(12+n.IntN(70), len(b)-1) // where the headers are
	}
	switch n.IntN(9) {
	case 0, 1, 2:
		b[i] = byte(n.Uint32())
	case 3:
		b[i] ^= 1 << n.IntN(8)
	case 4:
		b[i] = []byte{0, 1, 0x7f, 0x80, 0xff}[n.IntN(5)]
	case 5: // cut
		*in = b[:max(smallest, n.IntN(len(b)+1))]
	case 6: // insert, or lose, some bytes in the middle
		k := 1 + n.IntN(8)
		if n.IntN(2) == 0 && len(b) > smallest+k && i+k < len(b) {
			*in = slices.Delete(b, i, i+k)
			break
		}
		*in = slices.Insert(b, i, make([]byte, k)...)
	case 7: // repeat a part elsewhere
		j := n.IntN(len(b))
		copy(b[j:], bytes.Clone(b[i:min(i+16, len(b))]))
	case 8: // a tag
		*in = tagged(b, []uint16{0x8100, 0x88a8}[n.IntN(2)])
	}
}
