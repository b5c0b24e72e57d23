package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Addresses of IPv6 beside vips6 that the trial serves, or not any more.
var (
	standbyVIP6 = netip.MustParseAddr("2001:db8::103")
	overVIP6    = netip.MustParseAddr("2001:db8::104")
	stranger6   = netip.MustParseAddrPort("[2001:db8:9::9]:1234")
)

// trialState6 is what the trial serves of IPv6: something of everything.
func trialState6() lb.State {
	at := func(a netip.Addr, p lb.Protocol, first, last uint16) lb.Listener {
		return lb.Listener{Addr: a, Proto: p, First: first, Last: last}
	}
	reals := func(ns ...int) (rs []lb.Real) {
		for _, n := range ns {
			rs = append(rs, lb.Real{Addr: realN6(n), Weight: uint16(n % 3)})
		}
		return rs
	}
	v := vips6
	return lb.State{
		Services: []lb.Service{
			{Name: "web6", Scheduler: lb.RR, Mark: 61, Reals: reals(1, 2), Listeners: []lb.Listener{at(v[0], lb.TCP, 80, 80), at(v[0], lb.UDP, 80, 80)}},
			{Name: "dns6", Scheduler: lb.WRR, Reals: reals(1, 2, 4), OnePacket: true, Listeners: []lb.Listener{at(v[0], lb.UDP, 53, 53)}},
			{Name: "range6", Scheduler: lb.SH, Reals: reals(4, 5, 6), Listeners: []lb.Listener{at(v[0], lb.TCP, 8000, 8100)}},
			{
				Name: "all6", Scheduler: lb.MH, Mark: 62, Reals: reals(1, 4, 7), Persistence: lb.Persistence{Timeout: time.Minute, Prefix: 64},
				Listeners: []lb.Listener{at(v[1], lb.TCP, 0, 0), at(v[1], lb.UDP, 0, 0)},
			},
			{Name: "none6", Scheduler: lb.RR, Reals: reals(3), Listeners: []lb.Listener{at(v[2], lb.TCP, 80, 80), at(v[2], lb.UDP, 80, 80)}},
			{Name: "old6", Scheduler: lb.RR, Reals: reals(1), Listeners: []lb.Listener{at(standbyVIP6, lb.TCP, 80, 80)}},
			{Name: "over6", Scheduler: lb.RR, Reals: reals(1), Listeners: []lb.Listener{at(overVIP6, lb.TCP, 80, 80)}},
		},
		VIPs: slices.Concat(standby(standbyVIP6), leased(0, vips6[0]), leased(1, overVIP6)),
		Deny: []netip.Prefix{netip.MustParsePrefix("2001:db8:dead::/48")},
	}
}

// known6 are the connections that are there.
func known6() (es []endpoints) {
	for _, to := range []netip.AddrPort{web6, netip.AddrPortFrom(vip6, 8050), netip.AddrPortFrom(vips6[1], 22)} {
		es = append(es, endpoints{lb.TCP, client6, to}, endpoints{lb.UDP, client6, to})
	}
	return es
}

// An extension is a header between IPv6's and TCP's: its kind, and what
// follows the byte that says what is next.
type extension struct {
	kind byte
	rest []byte
}

// Extension headers as they are sent: options that pad, a router alert, routing
// of each type, authentication, fragments.
var (
	hopByHop     = extension{0, []byte{0, 5, 2, 0, 0, 1, 0}}
	destination  = extension{60, []byte{0, 1, 4, 0, 0, 0, 0}}
	longOptions  = extension{60, append([]byte{3, 1, 28}, make([]byte, 28)...)}
	mobility     = extension{43, append([]byte{2, 2, 1, 0, 0, 0, 0}, make([]byte, 16)...)}
	sourceRoute  = extension{43, append([]byte{2, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...)}
	routed       = extension{43, []byte{0, 3, 0, 0, 0, 0, 0}}
	segments     = extension{43, append([]byte{2, 4, 0, 0, 0, 0, 0}, make([]byte, 16)...)}
	signed       = extension{51, append([]byte{4, 0, 0, 0, 0, 1, 7}, make([]byte, 16)...)}
	unfragmented = fragmentOf(0, 9)
)

// fragmentOf is a fragment header with the word of offset and flags.
func fragmentOf(word uint16, id uint32) extension {
	h := make([]byte, 7)
	binary.BigEndian.PutUint16(h[1:], word)
	binary.BigEndian.PutUint32(h[3:], id)
	return extension{44, h}
}

// chained is a packet with extension headers.
func chained(p lb.Packet, payload int, all ...extension) []byte {
	next, b := byte(p.Proto), []byte{}
	for _, e := range slices.Backward(all) {
		b = slices.Concat([]byte{next}, e.rest, b)
		next = e.kind
	}
	return frame6(p, payload, next, b)
}

// quotedIn is an ICMPv6 error from a router that quotes a packet of the VIP.
func quotedIn(typ byte, dst netip.Addr, packet []byte) []byte {
	in := frame6(lb.Packet{Proto: lb.UDP, Src: netip.MustParseAddrPort("[2001:db8:f::1]:0"), Dst: netip.AddrPortFrom(dst, 0)}, 0, 0, nil)[:54]
	in[20] = 58
	in = append(in, typ, 0, 0, 0, 0, 0, 5, 0)
	return mend6(append(in, packet...))
}

// errorOf6 quotes what the VIP has sent of a connection.
func errorOf6(typ byte, e endpoints, all ...extension) []byte {
	return quotedIn(typ, e.dst.Addr(), chained(lb.Packet{Proto: e.proto, Src: e.dst, Dst: e.src, Flags: "A"}, 20, all...)[14:])
}

// mend6 makes the length right.
func mend6(f []byte) []byte {
	binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
	return f
}

// goodFrames6 are what is mutilated: a frame of each kind.
func goodFrames6() map[string][]byte {
	data := lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "PA"}
	open := lb.Packet{Proto: lb.TCP, Src: stranger6, Dst: web6, Flags: "S"}
	datagram := lb.Packet{Proto: lb.UDP, Src: client6, Dst: web6}
	to := func(a netip.Addr, port uint16, proto lb.Protocol, flags string) []byte {
		return frame6(lb.Packet{Proto: proto, Src: client6, Dst: netip.AddrPortFrom(a, port), Flags: flags}, 20, 0, nil)
	}
	return map[string][]byte{
		"data": chained(data, 100), "SYN": chained(open, 0), "datagram": chained(datagram, 30),
		"hop-by-hop": chained(data, 30, hopByHop), "options": chained(open, 0, destination, longOptions),
		"mobility": chained(data, 9, mobility), "source route": chained(open, 0, sourceRoute), "routed": chained(data, 9, routed),
		"segments": chained(datagram, 9, segments, signed), "atomic": chained(datagram, 9, unfragmented), "atomic data": chained(data, 9, hopByHop, unfragmented, destination),
		"eight": chained(data, 9, hopByHop, destination, routed, signed, destination, destination, routed, destination),
		"nine":  chained(data, 9, hopByHop, destination, routed, signed, destination, destination, routed, destination, destination),
		"first": chained(datagram, 96, fragmentOf(1, 3)), "later": chained(datagram, 96, fragmentOf(104|1, 3)), "last": chained(datagram, 9, hopByHop, fragmentOf(208, 3)),
		"tag": tagged(chained(data, 9), 0x8100), "tags": tagged(chained(open, 0, hopByHop), 0x88a8, 0x8100),
		"error": errorOf6(2, known6()[0]), "error with extensions": errorOf6(3, known6()[1], hopByHop, routed, destination),
		"solicitation": solicitation(vip6), "solicitation of a standby": solicitation(standbyVIP6),
		"no real": to(vips6[2], 80, lb.UDP, ""), "no service": to(vips6[2], 81, lb.TCP, "A"), "elsewhere": to(realN6(50), 80, lb.TCP, "A"),
		"standby": to(standbyVIP6, 80, lb.TCP, "S"), "over": to(overVIP6, 80, lb.TCP, "S"), "jumbo": chained(data, 8900),
	}
}

// each6 visits the good frames in one order.
func each6(visit func(name string, in []byte)) {
	good := goodFrames6()
	for _, name := range slices.Sorted(maps.Keys(good)) {
		visit(name, good[name])
	}
}

// ipv6At is where a frame's IPv6 header begins, 0 if it has none.
func ipv6At(f []byte) int {
	for at := 14; at+40 <= len(f) && at <= 22; at += 4 {
		if binary.BigEndian.Uint16(f[at-2:]) == 0x86dd {
			return at
		}
	}
	return 0
}

func corpus6() []variations {
	return []variations{
		{"IPv6, cut at every byte", cutEverywhere6},
		{"IPv6, every length", lengths6},
		{"IPv6, every chain of headers", chains6},
		{"IPv6, every kind and length of a header", headers6},
		{"IPv6, every fragment offset", fragmentOffsets6},
		{"IPv6, every depth of tags", func(send func([]byte)) { tagDepthsOf(each6, send) }},
		{"IPv6, nested errors", nestedErrors6},
		{"IPv6, martian addresses", martianAddresses6},
		{"IPv6, every value of a byte", byteValues6},
		{"IPv6, odd values everywhere", func(send func([]byte)) { oddValuesOf(each6, send) }},
	}
}

// cutEverywhere6 cuts frames short, as they are and with a length that agrees.
func cutEverywhere6(send func([]byte)) {
	each6(func(_ string, in []byte) {
		for n := smallest; n <= min(len(in), 400); n++ {
			send(in[:n])
			if at := ipv6At(in); at > 0 && n >= at+40 {
				short := bytes.Clone(in[:n])
				binary.BigEndian.PutUint16(short[at+4:], uint16(n-at-40))
				send(short)
			}
		}
	})
}

// lengths6 gives IPv6 every length up to some more than there is.
func lengths6(send func([]byte)) {
	each6(func(_ string, in []byte) {
		at := ipv6At(in)
		for n := range 300 {
			c := bytes.Clone(in)
			binary.BigEndian.PutUint16(c[at+4:], uint16(n))
			send(c)
			binary.BigEndian.PutUint16(c[at+4:], uint16(65535-n))
			send(c)
		}
	})
}

// chains6 sends every chain of up to four headers, and long ones of each.
func chains6(send func([]byte)) {
	kinds := []extension{hopByHop, routed, unfragmented, signed, destination}
	packets := []lb.Packet{
		{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "A"}, {Proto: lb.TCP, Src: stranger6, Dst: web6, Flags: "S"}, {Proto: lb.UDP, Src: client6, Dst: web6},
	}
	var visit func(all []extension)
	visit = func(all []extension) {
		for _, p := range packets {
			send(chained(p, 9, all...))
			send(errorOf6(1, endpoints{p.Proto, p.Src, p.Dst}, all...))
		}
		for _, k := range kinds {
			if len(all) < 4 {
				visit(append(slices.Clone(all), k))
			}
		}
	}
	visit(nil)
	for _, k := range append(kinds, longOptions, mobility, segments) {
		for n := 5; n <= 12; n++ {
			send(chained(packets[0], 9, slices.Repeat([]extension{k}, n)...))
		}
	}
}

// headers6 gives the first two headers every kind and every length.
func headers6(send func([]byte)) {
	each6(func(_ string, in []byte) {
		at := ipv6At(in)
		for _, offset := range []int{6, 40, 41, 42, 43, 48, 49} {
			for v := range 256 {
				if at+offset < len(in) {
					c := bytes.Clone(in)
					c[at+offset] = byte(v)
					send(c)
				}
			}
		}
	})
}

// fragmentOffsets6 sends every offset with every flag, after their first
// fragment and without one.
func fragmentOffsets6(send func([]byte)) {
	datagram := lb.Packet{Proto: lb.UDP, Src: client6, Dst: web6}
	data := lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "A"}
	send(chained(datagram, 96, fragmentOf(1, 3)))
	for word := range 1 << 16 {
		send(chained(datagram, 96, fragmentOf(uint16(word), 3)))
		send(chained(data, 9, fragmentOf(uint16(word), uint32(word))))
		send(errorOf6(2, known6()[word%6], fragmentOf(uint16(word), 3)))
	}
}

// nestedErrors6 quotes errors in errors and cuts them.
func nestedErrors6(send func([]byte)) {
	for _, e := range known6() {
		for _, all := range [][]extension{nil, {hopByHop}, {destination, routed, signed}} {
			in := errorOf6(2, e, all...)
			for range 5 {
				for typ := range 256 {
					c := bytes.Clone(in)
					c[54] = byte(typ)
					send(c)
				}
				for n := smallest; n <= len(in); n++ {
					send(in[:n])
					if n >= 54 {
						send(mend6(bytes.Clone(in[:n])))
					}
				}
				in = quotedIn(1, e.dst.Addr(), turned(in))
			}
		}
	}
}

// turned is the packet of a frame as if the VIP had sent it to its client.
func turned(in []byte) []byte {
	p, client := bytes.Clone(in[14:]), client6.Addr().As16()
	copy(p[8:24], in[38:54])
	copy(p[24:40], client[:])
	return p
}

// martianAddresses6 gives frames addresses that name no host, and such that are nearly
// so, as their source and as their destination.
func martianAddresses6(send func([]byte)) {
	var addrs []netip.Addr
	for _, s := range []string{
		"::", "::1", "::2", "::7f00:1", "::ffff:0.0.0.0", "::ffff:127.0.0.1", "::ffff:192.0.2.1", "::ffff:10.0.0.100", "::fffe:1:1", "64:ff9b::1", "100::1",
		"fe80::1", "fec0::1", "fc00::1", "ff01::1", "ff02::1", "ff0e::1", "feff::1", "2001:db8::100", "fd00::1", "2001:db8::103", "2001:db8:dead::1",
	} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	each6(func(_ string, in []byte) {
		for _, a := range addrs {
			for _, offset := range []int{8, 24} {
				c, b := bytes.Clone(in), a.As16()
				copy(c[ipv6At(in)+offset:], b[:])
				send(c)
			}
		}
	})
}

// byteValues6 gives the bytes that decide every value.
func byteValues6(send func([]byte)) {
	each6(func(_ string, in []byte) {
		at := ipv6At(in)
		for _, offset := range []int{0, 1, 7, 8, 23, 24, 38, 39, 44, 52, 53, 56, 60, 61} {
			for v := range 256 {
				if at+offset < len(in) {
					c := bytes.Clone(in)
					c[at+offset] = byte(v)
					send(c)
				}
			}
		}
	})
}

// settlers6 open the connections that the corpus plays with.
func settlers6(send func(what string, in []byte)) {
	for _, e := range known6() {
		for _, flags := range []string{"S", "A", "PA"} {
			send(fmt.Sprintf("settler %s", e.dst), frame6(lb.Packet{Proto: e.proto, Src: e.src, Dst: e.dst, Flags: flags}, 0, 0, nil))
		}
	}
}
