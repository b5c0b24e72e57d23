package xdp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// said is what a router says of a packet in a tunnel, or what a client hears of its own;
// mtu is of the way in the tunnel.
type said struct {
	kind, code byte
	mtu        uint32
}

// icmp is the ICMP message, of the family of the packet that it quotes.
func (s said) icmp(packet []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{s.kind, s.code, 0, 0}, s.mtu)
	b = append(b, packet...)
	if packet[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// translations are what clients hear, by the family of the outer header and by theirs
// (RFC 7915, sections 4.2 and 5.2); a zero kind is nothing.
var translations = map[[2]bool][][2]said{
	{true, true}: {
		{{1, 0, 0}, {1, 0, 0}}, {{1, 1, 0}, {1, 1, 0}}, {{1, 3, 0}, {1, 3, 0}}, {{1, 4, 0}, {1, 4, 0}}, {{3, 0, 0}, {3, 0, 0}},
		{{2, 0, 1400}, {2, 0, 1400}}, {{2, 0, 1280}, {2, 0, 0}}, {{2, 0, 0}, {2, 0, 0}}, {{4, 1, 6}, {1, 3, 0}},
		{{5, 0, 0}, {}}, {{0, 0, 0}, {}}, {{128, 0, 0}, {}}, {{137, 0, 0}, {}},
	},
	{true, false}: {
		{{1, 0, 0}, {3, 1, 0}}, {{1, 1, 0}, {3, 10, 0}}, {{1, 3, 0}, {3, 1, 0}}, {{1, 4, 0}, {3, 3, 0}}, {{3, 0, 0}, {11, 0, 0}},
		{{2, 0, 1400}, {3, 4, 1400}}, {{4, 1, 6}, {3, 1, 0}}, {{5, 0, 0}, {}}, {{128, 0, 0}, {}},
	},
	{false, true}: {
		{{3, 0, 0}, {1, 0, 0}}, {{3, 1, 0}, {1, 0, 0}}, {{3, 2, 0}, {1, 3, 0}}, {{3, 3, 0}, {1, 4, 0}}, {{3, 13, 0}, {1, 1, 0}}, {{3, 14, 0}, {}},
		{{11, 0, 0}, {3, 0, 0}}, {{3, 4, 1400}, {2, 0, 1400}}, {{3, 4, 1280}, {2, 0, 0}}, {{3, 4, 0}, {2, 0, 0}}, {{4, 0, 0}, {}}, {{5, 0, 0}, {}},
	},
}

var familyNames = map[bool]string{false: "IPv4", true: "IPv6"}

// What routers of either family say of a packet of either family in a tunnel, its client
// hears in its own family's words, from the VIP, and with the size that is left.
func TestErrorsAboutTunnelsOfIPv6(t *testing.T) {
	for families, all := range translations {
		for _, k := range tunnelKinds {
			t.Run(k.String()+", "+familyNames[families[1]]+" in "+familyNames[families[0]], func(t *testing.T) {
				r := newRelaying(t, k.Encap, families[0], families[1], nil)
				for _, x := range all {
					r.wantSaid(x[0], x[1])
				}
			})
		}
	}
}

// relaying is a harness with one tunnel, and what a client's packet became there.
type relaying struct {
	*harness
	isOuter6 bool
	overhead int
	out      []byte // the outer packet
}

func newRelaying(t *testing.T, e lb.Encap, isOuter6, isInner6 bool, from []netip.Prefix) *relaying {
	t.Helper()
	s, to, own, packet := webService(1), realN(1), outerSource, syn(lb.TCP)
	if isInner6 {
		s, packet = webService6(1), lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Flags: "S"}
	}
	if isOuter6 {
		to, own = realN6(1), ownAddr6
	}
	packet.Size = 1300
	s.Reals[0] = lb.Real{Addr: to, Weight: 1, Forward: lb.Tunnel, Encap: e}
	h := openHarness(t, Options{Flows: 1024, Templates: 1024, StillClock: true, IPv6: true})
	h.net.hosts = map[netip.Addr]Neighbor{to: {MAC: [6]byte{2, 0, 0, 0, 0, 0x77}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500, From: own}}
	h.apply(lb.State{ExpireNodestConn: true, OuterSources: from, Services: []lb.Service{s}})
	return &relaying{h, isOuter6, e.Kind.Overhead(to), h.tunnelled(packet)[ethernetLen:]}
}

// relayed is what a client is told because of an ICMP message; nil if nothing.
func (r *relaying) relayed(message []byte) []byte {
	parse := parseTunnelError
	if r.isOuter6 {
		parse = parseTunnelError6
	}
	if e, ok := parse(message); ok && r.hasTunnelled(e) {
		return e.answer()
	}
	return nil
}

func (r *relaying) wantSaid(router, want said) {
	r.t.Helper()
	got := r.relayed(router.icmp(r.out))
	if want == (said{}) {
		if got != nil {
			r.t.Errorf("%+v: the client hears\n%x, want nothing", router, got)
		}
		return
	}
	inner := r.out[r.overhead:]
	isTooBig := inner[0]>>4 == 6 && want.kind == 2 || inner[0]>>4 == 4 && want.kind == 3 && want.code == 4
	switch least := uint32(1280); {
	case isTooBig && inner[0]>>4 == 6:
		want.mtu = max(want.mtu, uint32(r.overhead)+least) - uint32(r.overhead)
	case isTooBig:
		want.mtu -= uint32(r.overhead)
	}
	if message := toClient(inner, want); !bytes.Equal(got, message) {
		r.t.Errorf("%+v: the client hears\n%x, want\n%x", router, got, message)
	}
}

// toClient is the packet by which a client hears something about its own packet.
func toClient(packet []byte, s said) []byte {
	if packet[0]>>4 == 4 {
		m := s.icmp(packet[:min(len(packet), 548)])
		size := ipv4Len + len(m)
		return slices.Concat([]byte{0x45, packet[1] | 0xc0, byte(size >> 8), byte(size), 0, 0, 0, 0, 64, 1, 0, 0}, packet[16:20], packet[12:16], m)
	}
	m := s.icmp(packet[:min(len(packet), 1232)])
	size := []byte{byte(len(m) >> 8), byte(len(m))}
	binary.BigEndian.PutUint16(m[2:], checksum(slices.Concat(packet[24:40], packet[8:24], []byte{0, 0}, size, []byte{0, 0, 0, 58}, m)))
	return slices.Concat([]byte{0x60, 0, 0, 0}, size, []byte{58, 64}, packet[24:40], packet[8:24], m)
}

// What quotes another packet than the tunnel's is not relayed, in whatever families.
func TestErrorsOfIPv6ThatAreNotRelayed(t *testing.T) {
	for families := range translations {
		for _, k := range tunnelKinds {
			t.Run(k.String()+" "+familyNames[families[1]]+" in "+familyNames[families[0]], func(t *testing.T) {
				testErrorsThatAreNotRelayed(newRelaying(t, k.Encap, families[0], families[1], nil), families[1])
			})
		}
	}
}

// unreachable is an error that is always told on.
func (r *relaying) unreachable() said {
	if r.isOuter6 {
		return said{kind: 1}
	}
	return said{kind: 3, code: 1}
}

func testErrorsThatAreNotRelayed(r *relaying, isInner6 bool) {
	sourceAt, realAt, protocolAt := 15, 19, 9
	if r.isOuter6 {
		sourceAt, realAt, protocolAt = 23, 39, 6
	}
	innerProtocolAt, innerLen := r.overhead+9, ipv4Len
	if isInner6 {
		innerProtocolAt, innerLen = r.overhead+6, ipv6Len
	}
	if r.relayed(r.unreachable().icmp(r.out)) == nil {
		r.t.Fatal("what is not changed is not relayed")
	}
	for what, at := range map[string]int{
		"another source of the tunnel": sourceAt, "another real": realAt,
		"another protocol outside": protocolAt, "another protocol inside": innerProtocolAt,
		"another client's port": r.overhead + innerLen + 1, "another VIP's port": r.overhead + innerLen + 3, "no IP inside": r.overhead,
	} {
		out := bytes.Clone(r.out)
		out[at] ^= 0x15
		if got := r.relayed(r.unreachable().icmp(out)); got != nil {
			r.t.Errorf("%s: the client hears\n%x", what, got)
		}
	}
	for n := 1; n < r.overhead+innerLen+8; n++ {
		if r.relayed(r.unreachable().icmp(r.out[:n])) != nil {
			r.t.Errorf("relayed with %d bytes of the packet", n)
		}
	}
}

// An error comes back to whichever address of outer_source the packet had.
func TestErrorsAboutSpreadTunnels(t *testing.T) {
	for families, from := range map[[2]bool]string{
		{false, false}: "192.0.2.64/26", {true, true}: "2001:db8:f::/64", {true, false}: "2001:db8:f::/120", {false, true}: "192.0.2.10/32",
	} {
		t.Run(from, func(t *testing.T) {
			source := netip.MustParsePrefix(from)
			r := newRelaying(t, lb.Encap{}, families[0], families[1], []netip.Prefix{source})
			if a := sourceOf(t, r.out); !source.Contains(a) {
				t.Fatalf("it comes from %s, want one of %s", a, source)
			}
			if r.relayed(r.unreachable().icmp(r.out)) == nil {
				t.Error("not relayed")
			}
		})
	}
}

// The extensions of a packet of IPv6 are skipped as the packet path skips them.
func TestTunnelErrorsSkipExtensions(t *testing.T) {
	ports := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 0}
	pad := []byte{1, 4, 0, 0, 0, 0}
	packet := func(next byte, extensions ...byte) []byte {
		b := make([]byte, ipv6Len)
		b[6] = next
		return slices.Concat(b, extensions, ports)
	}
	header := func(next, length byte) []byte { return append([]byte{next, length}, pad...) }
	for what, x := range map[string]struct {
		packet []byte
		ok     bool
	}{
		"none":                    {packet(6), true},
		"hop by hop":              {packet(0, header(6, 0)...), true},
		"two":                     {packet(0, slices.Concat(header(60, 0), header(6, 0))...), true},
		"AH":                      {packet(51, slices.Concat([]byte{6, 1}, pad, make([]byte, 4))...), true},
		"a first fragment":        {packet(44, 6, 0, 0, 1, 0, 0, 0, 1), true},
		"a later fragment":        {packet(44, 6, 0, 0, 9, 0, 0, 0, 1), false},
		"longer than the packet":  {packet(0, header(6, 255)...), false},
		"half an extension":       {packet(0)[:ipv6Len+7], false},
		"more than can be known":  {packet(0, bytes.Repeat(header(0, 0), 9)...), false},
		"shorter than its header": {packet(6)[:39], false},
	} {
		proto, rest, ok := splitIPv6(x.packet)
		if ok != x.ok || ok && (proto != lb.TCP || !bytes.Equal(rest, ports)) {
			t.Errorf("%s: protocol %d, %x, %v", what, proto, rest, ok)
		}
	}
}

// FuzzTunnelError6: whatever comes as ICMPv6, what a client would be told is a whole
// message with right checksums, and no longer than its family's smallest way takes.
func FuzzTunnelError6(f *testing.F) {
	for families, all := range translations {
		for _, k := range tunnelKinds {
			protocol, between := k.protocol, k.between
			inner, err := buildPacket(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Size: 1000})
			if families[1] {
				inner, err = buildPacket(lb.Packet{Proto: lb.TCP, Src: client6, Dst: web6, Size: 1000})
			}
			if err != nil {
				f.Fatal(err)
			}
			outer := outerHeader6(ownAddr6, realN6(1))
			outer[0], outer[6] = 0x60, protocol
			for _, x := range all {
				f.Add(x[0].icmp(slices.Concat(outer, between, inner)))
			}
		}
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		e, ok := parseTunnelError6(message)
		if !ok {
			return
		}
		b := e.answer()
		if e.client.Addr().Is4() {
			if len(b) > 576 || int(binary.BigEndian.Uint16(b[2:])) != len(b) || checksum(b[ipv4Len:]) != 0 {
				t.Errorf("the client would hear %x", b)
			}
			return
		}
		size := len(b) - ipv6Len
		pseudo := slices.Concat(b[8:ipv6Len], []byte{0, 0, byte(size >> 8), byte(size), 0, 0, 0, 58}, b[ipv6Len:])
		if len(b) > 1280 || int(binary.BigEndian.Uint16(b[4:])) != size || checksum(pseudo) != 0 {
			t.Errorf("the client would hear %x", b)
		}
	})
}

// As many extension headers as the packet path takes may be in front of a client's ports,
// and no more.
func TestErrorsAboutChainsOfHeaders(t *testing.T) {
	for n, want := range map[int]bool{0: true, 1: true, mostExtensions: true, mostExtensions + 1: false} {
		const options = 60
		p := make([]byte, ipv6Len, 200)
		p[0], p[6] = 0x60, byte(lb.UDP)
		for i := range n {
			p[6] = options
			next := byte(options)
			if i == n-1 {
				next = byte(lb.UDP)
			}
			p = append(p, next, 0, 1, 4, 0, 0, 0, 0)
		}
		p = append(p, 0x9c, 0x40, 0, 53, 0, 8, 0, 0)
		proto, rest, ok := splitIPv6(p)
		if ok != want || ok && (proto != lb.UDP || len(rest) != 8) {
			t.Errorf("behind %d headers: protocol %d, %d bytes, %v; want %v", n, proto, len(rest), ok, want)
		}
	}
}
