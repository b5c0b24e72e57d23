package xdp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// outerSource is what the director's outer headers come from.
var outerSource = netip.MustParseAddr("10.0.0.1")

// tunnelService is web with a real behind a router, by tunnel, and one by direct routing.
func tunnelService() lb.Service { return serviceIn(lb.Encap{}) }

// serviceIn is [tunnelService] by a tunnel of any kind.
func serviceIn(e lb.Encap) lb.Service {
	s := webService(2)
	s.Scheduler = lb.RR
	s.Reals[0].Forward, s.Reals[0].Encap = lb.Tunnel, e
	return s
}

// tunnelKinds are what XDP makes tunnels of, with what follows the outer header of a
// packet whose length is 0, and the protocol that this is.
var tunnelKinds = []struct {
	lb.Encap
	protocol byte
	between  []byte
}{
	{lb.Encap{}, 4, nil},
	{lb.Encap{Kind: lb.GUE, Port: 5555}, 17, []byte{0, 0, 0x15, 0xb3, 0, 12, 0, 0, 0, 4, 0, 0}},
	{lb.Encap{Kind: lb.GRE}, 47, []byte{0, 0, 8, 0}},
}

// newTunnel serves tunnelService, whose first real is behind a router.
func newTunnel(t *testing.T, s lb.Service) *harness {
	t.Helper()
	h := newStill(t, 4096, 1024)
	h.serveTunnels(s)
	return h
}

func (h *harness) serveTunnels(s lb.Service) {
	h.t.Helper()
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): {
		MAC: [6]byte{2, 0, 0, 0, 0, 0x77}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500,
		From: outerSource, Gateway: netip.MustParseAddr("10.0.0.254"),
	}}
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
}

// wantOuter checks the outer headers of a frame that carries what in was, and
// returns the port that they come from.
func wantOuter(t *testing.T, in, out []byte, at int, protocol byte, between []byte) (from uint16) {
	t.Helper()
	overhead := ipv4Len + len(between)
	if len(out) != len(in)+overhead {
		t.Fatalf("%d bytes became %d, want %d more", len(in), len(out), overhead)
	}
	outer, second, inner := out[at:at+ipv4Len], out[at+ipv4Len:at+overhead], out[at+overhead:]
	want := outerHeader(outerSource, realN(1))
	want[1], want[8], want[9] = in[at+1], in[at+8]-1, protocol
	length := binary.BigEndian.Uint16(in[at+2:])
	binary.BigEndian.PutUint16(want[2:], length+uint16(overhead))
	between = bytes.Clone(between)
	if protocol == protocolUDP {
		from = binary.BigEndian.Uint16(second)
		copy(between, second[:2])
		binary.BigEndian.PutUint16(between[4:], binary.BigEndian.Uint16(between[4:])+length)
		if from < uint16(bpf.SpreadPorts) {
			t.Errorf("it comes from port %d, want at least %d", from, bpf.SpreadPorts)
		}
	}
	if !bytes.Equal(second, between) {
		t.Errorf("between the IP headers\n%x, want\n%x", second, between)
	}
	if want[6] = in[at+6] & 0x40; want[6] == 0 {
		copy(want[4:6], outer[4:6]) // any identification
	}
	binary.BigEndian.PutUint16(want[10:], checksum(want))
	if !bytes.Equal(outer, want) {
		t.Errorf("outer header\n%x, want\n%x", outer, want)
	}
	carried := bytes.Clone(in[at:])
	carried[8]--
	binary.BigEndian.PutUint16(carried[10:], 0)
	binary.BigEndian.PutUint16(carried[10:], checksum(carried[:int(carried[0]&15)*4]))
	if !bytes.Equal(inner, carried) {
		t.Errorf("carried\n%x, want\n%x", inner, carried)
	}
	return from
}

// Every kind of packet of a connection goes through the tunnel, by the short
// way and the long way alike, with what the kernel takes from the inner header.
func TestTunnelHeader(t *testing.T) {
	for _, k := range tunnelKinds {
		t.Run(k.String(), func(t *testing.T) { testTunnelHeader(t, k.Encap, k.protocol, k.between) })
	}
}

func testTunnelHeader(t *testing.T, e lb.Encap, protocol byte, between []byte) {
	s := serviceIn(e)
	s.Reals = s.Reals[:1]
	h := newTunnel(t, s)
	ports := map[uint16]bool{}
	frame := func(flags string, size int, change func(ip []byte), tags ...uint16) ([]byte, int) {
		p := lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: flags, Size: size}
		f, err := buildFrame(p, h.dp.Interfaces[0].MAC)
		must(t, err)
		if change != nil {
			change(f[ethernetLen:])
			binary.BigEndian.PutUint16(f[ethernetLen+10:], 0)
			binary.BigEndian.PutUint16(f[ethernetLen+10:], checksum(f[ethernetLen:ethernetLen+int(f[ethernetLen]&15)*4]))
		}
		return tagged(f, tags...), ethernetLen + 4*len(tags)
	}
	for _, x := range []struct {
		flags  string
		size   int
		change func(ip []byte)
		tags   []uint16
	}{
		{flags: "S"}, {flags: "A"}, {flags: "A"}, {flags: "A", size: 1480 - len(between)},
		{flags: "A", change: func(ip []byte) { ip[1] = 0xb9 }}, // the long way: the short one wants no TOS
		{flags: "A", change: func(ip []byte) { ip[6] = 0 }},
		{flags: "A", change: func(ip []byte) { ip[8] = 2 }},
		{flags: "A", change: func(ip []byte) { ip[8], ip[1] = 255, 0xff }},
		{flags: "A", tags: []uint16{0x8100}}, {flags: "A", tags: []uint16{0x88a8, 0x8100}}, {flags: "FA"},
	} {
		in, at := frame(x.flags, x.size, x.change, x.tags...)
		out := h.want(in, "forwarded", tx)
		ports[wantOuter(t, in, out, at, protocol, between)] = true
		if mac := [6]byte{2, 0, 0, 0, 0, 0x77}; !bytes.Equal(out[:6], mac[:]) || !bytes.Equal(out[6:12], directorMAC[:]) {
			t.Errorf("from %x to %x, want the router's MAC, and the interface's", out[6:12], out[:6])
		}
		if !bytes.Equal(out[12:at], in[12:at]) {
			t.Errorf("tags %x, want %x", out[12:at], in[12:at])
		}
	}
	if len(ports) != 1 {
		t.Errorf("the packets of one connection come from %d ports, want one: %v", len(ports), ports)
	}
}

// What the daemon sends of a fragment that came too early is what the packet path makes
// of one that came in time.
func TestHeldFragmentsThroughTunnels(t *testing.T) {
	for _, k := range tunnelKinds {
		t.Run(k.String(), func(t *testing.T) {
			s := serviceIn(k.Encap)
			s.Reals = s.Reals[:1]
			h := newTunnel(t, s)
			h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}, OuterSources: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/29")}})
			slot := h.services["web"].reals[s.Reals[0].Key()].slot
			for n := range uint16(8) {
				parts := fragments(n)
				h.want(parts[0], "forwarded", tx)
				want := h.want(parts[1], "forwarded", tx)
				hold := holder{b: h.Backend}
				got := hold.addressed(parts[1], slot)
				at := ethernetLen
				copy(got[at+4:at+6], want[at+4:]) // any identification
				binary.BigEndian.PutUint16(got[at+10:], 0)
				binary.BigEndian.PutUint16(got[at+10:], checksum(got[at:at+ipv4Len]))
				if !bytes.Equal(got, want) {
					t.Fatalf("the daemon sends\n%x, the packet path\n%x", got, want)
				}
			}
		})
	}
}

// A real of the other family than its VIP's is reached by a tunnel between the two, with
// the frame's type, also behind tags, of what it carries now.
func TestTunnelOfTheOtherFamily(t *testing.T) {
	s := serviceIn(lb.Encap{})
	s.Reals = s.Reals[:1]
	s.Reals[0].Addr = realN6(1)
	h := newStill(t, 1024, 1024)
	h.net.hosts = map[netip.Addr]Neighbor{realN6(1): {
		MAC: mac6(realN6(1)), Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500, From: ownAddr6,
	}}
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	r := h.services["web"].reals[s.Reals[0].Key()]
	if got := h.dp.Reals[r.slot].MTU; got != 1460 {
		t.Errorf("the way takes %d bytes, want 1460", got)
	}
	if near, ok := h.whereLeft(r.slot); !ok || near.MTU != 1500 || near.From != ownAddr6 {
		t.Errorf("a successor would find %+v", near)
	}
	for _, tags := range [][]uint16{nil, {0x8100}, {0x88a8, 0x8100}} {
		for _, flags := range []string{"S", "A", "A"} {
			untagged, err := buildFrame(lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: flags, Size: 100}, h.dp.Interfaces[0].MAC)
			must(t, err)
			untagged[ethernetLen+1] = 0xb9 // TOS
			binary.BigEndian.PutUint16(untagged[ethernetLen+10:], 0)
			binary.BigEndian.PutUint16(untagged[ethernetLen+10:], checksum(untagged[ethernetLen:ethernetLen+ipv4Len]))
			in := tagged(untagged, tags...)
			out := h.want(in, "forwarded", tx)
			at := ethernetLen + 4*len(tags)
			want := outerHeader6(ownAddr6, realN6(1))
			copy(want, []byte{0x6b, 0x90, 0, 0, 0, 100, protocolIPIP, in[at+8] - 1})
			if got := out[at-2 : at+ipv6Len]; !bytes.Equal(got, append([]byte{0x86, 0xdd}, want...)) {
				t.Errorf("%s with %d tags: type and outer header\n%x, want\n86dd%x", flags, len(tags), got, want)
			}
			if got := out[at+ipv6Len+9:]; !bytes.Equal(got[3:], in[at+12:]) {
				t.Errorf("%s with %d tags: carried\n%x, want\n%x", flags, len(tags), got[3:], in[at+12:])
			}
		}
	}
}

var (
	ownAddr6   = netip.MustParseAddr("2001:db8::a")
	otherReals = []netip.Addr{realN6(1), realN6(2)} // of IPv6, which services of IPv4 reach by tunnel
)

// fromOwn is what the director's outer headers to an address come from.
func fromOwn(to netip.Addr) netip.Addr {
	if to.Is6() {
		return ownAddr6
	}
	return ownAddr
}

// drawTunnel draws what a tunnel is made of.
func drawTunnel(rt *rapid.T) lb.Encap {
	return draw(rt, "in", lb.Encap{}, lb.Encap{Kind: lb.GRE}, lb.Encap{Kind: lb.GUE, Port: lb.GUEPort}, lb.Encap{Kind: lb.GUE, Port: 5555})
}

// drawOuterSources draws where outer headers come from: of each family the host's own
// address, another one, or one of a network.
func drawOuterSources(rt *rapid.T) (all []netip.Prefix) {
	for _, from := range [][]string{
		{"", "192.0.2.10/32", "192.0.2.64/26", "192.0.2.2/31", "172.16.0.0/12", "0.0.0.0/1"},
		{"", "2001:db8:f::1/128", "2001:db8:f::/64", "2001:db8:f::10/127", "2001:db8:f::/120"},
	} {
		if s := draw(rt, "outer source", from...); s != "" {
			all = append(all, netip.MustParsePrefix(s))
		}
	}
	return all
}

// Outer headers come from the address that the configuration gives, or, of a network,
// each connection's from one of its own, which is neither the first nor the last.
func TestOuterSource(t *testing.T) {
	for _, k := range tunnelKinds {
		for to, from := range map[netip.Addr][]string{
			realN(1):  {"192.0.2.10/32", "192.0.2.64/26", "192.0.2.2/31", "172.16.0.0/12"},
			realN6(1): {"2001:db8:f::1/128", "2001:db8:f::/64", "2001:db8:f::/120", "2001:db8:f::10/127"},
		} {
			for _, source := range from {
				t.Run(k.String()+" from "+source, func(t *testing.T) { testOuterSource(t, k.Encap, to, netip.MustParsePrefix(source)) })
			}
		}
	}
}

func testOuterSource(t *testing.T, e lb.Encap, to netip.Addr, source netip.Prefix) {
	s := serviceIn(e)
	s.Reals = s.Reals[:1]
	s.Reals[0].Addr = to
	h := newStill(t, 4096, 1024)
	// It has no address of its own that it could speak from: none is needed.
	h.net.hosts = map[netip.Addr]Neighbor{to: {MAC: [6]byte{2, 0, 0, 0, 0, 0x77}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500}}
	h.apply(lb.State{ExpireNodestConn: true, OuterSources: []netip.Prefix{source}, Services: []lb.Service{s}})
	const connections = 512
	hosts := source.Addr().BitLen() - source.Bits()
	seen := map[netip.Addr]int{}
	for n := range uint16(connections) {
		var first netip.Addr
		for i, flags := range []string{"S", "A", "A", "FA"} {
			out := h.tunnelled(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 2000+n), Dst: web, Flags: flags})
			from := sourceOf(t, out[ethernetLen:])
			if i == 0 {
				first = from
				seen[from]++
			}
			if from != first || !source.Contains(from) {
				t.Fatalf("connection %d: packet %d comes from %s, the first from %s, want one of %s", n, i, from, first, source)
			}
		}
	}
	want := min(1<<min(hosts, 16), connections)
	if hosts > 1 && hosts < 16 {
		want = min(want-2, connections)
		for _, a := range []netip.Addr{source.Addr(), lastOf(source)} {
			if seen[a] > 0 {
				t.Errorf("%d connections come from %s", seen[a], a)
			}
		}
	}
	if len(seen) < want*3/4 {
		t.Errorf("%d connections come from %d addresses of %s, want at least three quarters of %d", connections, len(seen), source, want)
	}
	for a, n := range seen {
		if n > 6*connections/want {
			t.Errorf("%d of %d connections come from %s", n, connections, a)
		}
	}
}

// sourceOf is the source of an IP packet whose header's checksum is right.
func sourceOf(t *testing.T, packet []byte) netip.Addr {
	t.Helper()
	if packet[0]>>4 == 6 {
		return netip.AddrFrom16([16]byte(packet[8:24]))
	}
	if sum := checksum(packet[:ipv4Len]); sum != 0 {
		t.Errorf("outer header %x: its checksum is wrong", packet[:ipv4Len])
	}
	return netip.AddrFrom4([4]byte(packet[12:16]))
}

// lastOf is a network's last address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// A reload that changes where tunnels come from changes all tunnels, also those of
// services that it leaves alone.
func TestOuterSourceOfAnUnchangedService(t *testing.T) {
	s := tunnelService()
	s.Reals = s.Reals[:1]
	other := webService(1)
	other.Name, other.Listeners = "other", []lb.Listener{{Addr: web.Addr(), Proto: lb.UDP, First: 53, Last: 53}}
	h := newTunnel(t, s)
	state := lb.State{ExpireNodestConn: true, Services: []lb.Service{s, other}}
	h.apply(state)
	if from := sourceOf(t, h.tunnelled(syn(lb.TCP))[ethernetLen:]); from != outerSource {
		t.Errorf("it comes from %s, want %s", from, outerSource)
	}
	state = state.Clone()
	state.Services[1].Reals[0].Weight++
	state.OuterSources = []netip.Prefix{netip.MustParsePrefix("192.0.2.10/32")}
	h.apply(state)
	if from := sourceOf(t, h.tunnelled(syn(lb.TCP))[ethernetLen:]); from != netip.MustParseAddr("192.0.2.10") {
		t.Errorf("it comes from %s, want 192.0.2.10", from)
	}
	state.OuterSources = nil
	h.apply(state)
	if from := sourceOf(t, h.tunnelled(syn(lb.TCP))[ethernetLen:]); from != outerSource {
		t.Errorf("it comes from %s, want %s again", from, outerSource)
	}
}

// Different connections come from different ports by GUE, so that the real's queues
// share them.
func TestTunnelSpreads(t *testing.T) {
	s := serviceIn(lb.Encap{Kind: lb.GUE, Port: 5555})
	s.Reals = s.Reals[:1]
	h := newTunnel(t, s)
	const connections = 256
	ports, queues := map[uint16]bool{}, map[uint16]int{}
	for n := range uint16(connections) {
		p := lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 2000+n), Dst: web, Flags: "S"}
		from := binary.BigEndian.Uint16(h.tunnelled(p)[ethernetLen+ipv4Len:])
		ports[from] = true
		queues[from%8]++
	}
	if len(ports) < connections*9/10 {
		t.Errorf("%d connections come from %d ports", connections, len(ports))
	}
	for q, n := range queues {
		if n > connections/4 {
			t.Errorf("%d of %d connections have the ports of queue %d of 8", n, connections, q)
		}
	}
}

// What does not fit with the outer header is answered with the size that does,
// or dropped where XDP would have to fragment.
func TestTunnelMTU(t *testing.T) {
	for _, k := range tunnelKinds {
		t.Run(k.String(), func(t *testing.T) { testTunnelMTU(t, k.Encap, 1480-len(k.between)) })
	}
}

func testTunnelMTU(t *testing.T, e lb.Encap, most int) {
	h := newTunnel(t, serviceIn(e))
	r := h.services["web"].reals[lb.Real{Addr: realN(1)}.Key()]
	if got := h.dp.Reals[r.slot].MTU; int(got) != most {
		t.Fatalf("the way takes %d bytes, want %d", got, most)
	}
	if near, ok := h.whereLeft(r.slot); !ok || near.MTU != 1500 || near.From != outerSource {
		t.Errorf("a successor would find %+v", near)
	}
	s := serviceIn(e)
	s.Reals = s.Reals[:1]
	h.serveTunnels(s)
	long := lb.Packet{Proto: lb.TCP, Src: client, Dst: web, Flags: "S", Size: most + 1}
	f, err := buildFrame(long, h.dp.Interfaces[0].MAC)
	must(t, err)
	out := h.want(f, "answered_too_big", tx)
	if mtu := binary.BigEndian.Uint16(out[ethernetLen+ipv4Len+6:]); int(mtu) != most {
		t.Errorf("the answer says %d bytes, want %d", mtu, most)
	}
	f[ethernetLen+6] = 0
	h.want(f, "too_big", drop)
}

// Reals by direct routing and by tunnel side by side; a change of method takes
// the connections along.
func TestTunnelBesideDirectRouting(t *testing.T) {
	s := tunnelService()
	h := newTunnel(t, s)
	lengths := map[int]int{}
	for port := range uint16(4) {
		f, err := buildFrame(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(client.Addr(), 2000+port), Dst: web, Flags: "S", Size: 60}, h.dp.Interfaces[0].MAC)
		must(t, err)
		lengths[len(h.want(f, "forwarded", tx))-len(f)]++
	}
	if lengths[0] != 2 || lengths[ipv4Len] != 2 {
		t.Errorf("four connections became longer by %v, want two of them by %d", lengths, ipv4Len)
	}
	s = s.Clone()
	s.Reals[0].Forward, s.Reals[1].Forward = lb.DR, lb.DR
	near := h.net.hosts[realN(1)]
	h.serveTunnels(s)
	if r := h.services["web"].reals[s.Reals[0].Key()]; r.near.Err == "" || h.dp.Reals[r.slot].Method() != bpf.ForwardDr {
		t.Errorf("a real behind %s counts as reachable by direct routing", near.Gateway)
	}
}

// A tunnel to a host that this host cannot speak from is an error with a cure.
func TestTunnelWithoutSource(t *testing.T) {
	h := newStill(t, 1024, 1024)
	h.net.hosts = map[netip.Addr]Neighbor{realN(1): {MAC: [6]byte{2, 0, 0, 0, 0, 0x77}, Source: directorMAC, IfIndex: 1, Device: "lvx0", MTU: 1500}}
	s := tunnelService()
	s.Reals = s.Reals[:1]
	h.apply(lb.State{ExpireNodestConn: true, Services: []lb.Service{s}})
	if r := h.services["web"].reals[s.Reals[0].Key()]; r.near.Err == "" {
		t.Error("a tunnel without a source address counts as reachable")
	}
}
