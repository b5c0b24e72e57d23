package probe

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// skb is the beginning of struct __sk_buff (linux/bpf.h), as far as the
// programs read it.
type skb struct {
	Len, PktType, Mark uint32
	_                  [45]uint32
}

const (
	mark  = 0x6c010001
	mark6 = 0x6c010002
)

var (
	local    = netip.MustParseAddr("172.25.0.11")
	real     = netip.MustParseAddr("172.25.0.12")
	vip      = netip.MustParseAddr("172.25.0.100")
	stranger = netip.MustParseAddr("172.25.0.50")

	local6    = netip.MustParseAddr("fd25::11")
	real6     = netip.MustParseAddr("fd25::12")
	vip6      = netip.MustParseAddr("2001:db8::100")
	stranger6 = netip.MustParseAddr("fd25::50")
)

// loaded is a path that is attached nowhere, with one mark.
func loaded(t *testing.T) *Path {
	t.Helper()
	p, err := attach(nil, func(netip.Addr) bool { return false }, func(int, *ebpf.Program, *ebpf.Program) (io.Closer, error) { return io.NopCloser(nil), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	check(t, p.objects.Probes.Put(uint32(mark), probeTo(real, vip, lb.DR, lb.Encap{})))
	check(t, p.objects.Probes.Put(uint32(mark6), probeTo(real6, vip6, lb.DR, lb.Encap{})))
	return p
}

// run gives a frame to a program and returns the frame that comes out.
func run(t *testing.T, prog *ebpf.Program, mark uint32, frame []byte) []byte {
	t.Helper()
	out := make([]byte, len(frame)+256)
	opts := ebpf.RunOptions{Data: frame, DataOut: out, Context: skb{Mark: mark}}
	verdict, err := prog.Run(&opts)
	if err != nil {
		t.Fatal(err)
	}
	if int32(verdict) != -1 { // TC_ACT_UNSPEC: whoever is next decides
		t.Fatalf("verdict %d", int32(verdict))
	}
	return opts.DataOut
}

// frame builds an IPv4 frame with right checksums.
func frame(t *testing.T, from, to netip.Addr, change func(*layers.IPv4), above ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	switch l := above[0].(type) {
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		check(t, l.SetNetworkLayerForChecksum(ip))
	case *layers.UDP:
		ip.Protocol = layers.IPProtocolUDP
		check(t, l.SetNetworkLayerForChecksum(ip))
	case *layers.ICMPv4:
		ip.Protocol = layers.IPProtocolICMPv4
	}
	if change != nil {
		change(ip)
	}
	return serialize(t, layers.EthernetTypeIPv4, ip, above)
}

// serialize puts what is above Ethernet into a frame from one neighbour to the other.
func serialize(t *testing.T, what layers.EthernetType, ip gopacket.SerializableLayer, above []gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		EthernetType: what,
	}
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{eth, ip}, above...)
	check(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, all...))
	return bytes.Clone(buf.Bytes())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tcp(from, to uint16) *layers.TCP {
	return &layers.TCP{SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), SYN: true, Window: 1000}
}

func udp(from, to uint16) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
}

func icmp(typ uint8, id uint16) *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: id, Seq: 7}
}

func options(ip *layers.IPv4) {
	ip.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
}

// Every frame that comes out is the frame that would have been built with
// the other address: so every checksum is right.
func TestRewrite(t *testing.T) {
	payload := gopacket.Payload("odd size")[:7]
	for _, tc := range []struct {
		name     string
		change   func(*layers.IPv4)
		out, in_ func() gopacket.SerializableLayer
	}{
		{"tcp", nil,
			func() gopacket.SerializableLayer { return tcp(40000, 80) },
			func() gopacket.SerializableLayer { return tcp(80, 40000) }},
		{"tcp with IP options", options,
			func() gopacket.SerializableLayer { return tcp(40001, 80) },
			func() gopacket.SerializableLayer { return tcp(80, 40001) }},
		{"udp", nil,
			func() gopacket.SerializableLayer { return udp(40002, 53) },
			func() gopacket.SerializableLayer { return udp(53, 40002) }},
		{"icmp", nil,
			func() gopacket.SerializableLayer { return icmp(layers.ICMPv4TypeEchoRequest, 77) },
			func() gopacket.SerializableLayer { return icmp(layers.ICMPv4TypeEchoReply, 77) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := loaded(t)
			got := run(t, p.objects.ProbeOut, mark, frame(t, local, real, tc.change, tc.out(), payload))
			if diff := cmp.Diff(frame(t, local, vip, tc.change, tc.out(), payload), got); diff != "" {
				t.Errorf("out (-want +got):\n%s", diff)
			}
			got = run(t, p.objects.ProbeIn, 0, frame(t, vip, local, tc.change, tc.in_(), payload))
			if diff := cmp.Diff(frame(t, real, local, tc.change, tc.in_(), payload), got); diff != "" {
				t.Errorf("in (-want +got):\n%s", diff)
			}
		})
	}
}

// frame6 builds an IPv6 frame with right checksums.
func frame6(t *testing.T, from, to netip.Addr, above ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 64, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	switch l := above[0].(type) {
	case *layers.TCP:
		ip.NextHeader = layers.IPProtocolTCP
		check(t, l.SetNetworkLayerForChecksum(ip))
	case *layers.UDP:
		ip.NextHeader = layers.IPProtocolUDP
		check(t, l.SetNetworkLayerForChecksum(ip))
	case *layers.ICMPv6:
		ip.NextHeader = layers.IPProtocolICMPv6
		check(t, l.SetNetworkLayerForChecksum(ip))
	case *layers.IPv6Fragment:
		ip.NextHeader = layers.IPProtocolIPv6Fragment
	}
	return serialize(t, layers.EthernetTypeIPv6, ip, above)
}

func icmp6(typ uint8) *layers.ICMPv6 {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
}

func TestRewriteIPv6(t *testing.T) {
	echo := gopacket.Payload{0, 77, 0, 7, 'o', 'd', 'd'}
	type layer = gopacket.SerializableLayer
	for name, tc := range map[string]struct{ out, back func() []layer }{
		"tcp":  {func() []layer { return []layer{tcp(40000, 80), echo} }, func() []layer { return []layer{tcp(80, 40000), echo} }},
		"udp":  {func() []layer { return []layer{udp(40002, 53), echo} }, func() []layer { return []layer{udp(53, 40002), echo} }},
		"icmp": {func() []layer { return []layer{icmp6(128), echo} }, func() []layer { return []layer{icmp6(129), echo} }},
	} {
		p := loaded(t)
		got := run(t, p.objects.ProbeOut, mark6, frame6(t, local6, real6, tc.out()...))
		if diff := cmp.Diff(frame6(t, local6, vip6, tc.out()...), got); diff != "" {
			t.Errorf("%s out (-want +got):\n%s", name, diff)
		}
		got = run(t, p.objects.ProbeIn, 0, frame6(t, vip6, local6, tc.back()...))
		if diff := cmp.Diff(frame6(t, real6, local6, tc.back()...), got); diff != "" {
			t.Errorf("%s in (-want +got):\n%s", name, diff)
		}
	}
}

// ICMPv6 sums the quoted addresses and its own: both change.
func TestRewriteIPv6Error(t *testing.T) {
	for _, from := range []netip.Addr{vip6, stranger6} {
		for _, typ := range []uint8{1, 2, 3} {
			p := loaded(t)
			sent := run(t, p.objects.ProbeOut, mark6, frame6(t, local6, real6, udp(40000, 53)))
			about := func(b []byte) gopacket.Payload { return append(gopacket.Payload{0, 0, 0, 0}, b...) }
			got := run(t, p.objects.ProbeIn, 0, frame6(t, from, local6, icmp6(typ), about(sent[14:])))
			outer, quoted := from, frame6(t, local6, real6, udp(40000, 53))
			if from == vip6 {
				outer = real6
			}
			copy(quoted[14+40+6:], sent[14+40+6:14+40+8]) // the UDP checksum that the real got
			if diff := cmp.Diff(frame6(t, outer, local6, icmp6(typ), about(quoted[14:])), got); diff != "" {
				t.Errorf("error %d from %s (-want +got):\n%s", typ, from, diff)
			}
		}
	}
}

func TestLeaveIPv6Alone(t *testing.T) {
	p := loaded(t)
	run(t, p.objects.ProbeOut, mark6, frame6(t, local6, real6, tcp(40000, 80)))
	fragment := &layers.IPv6Fragment{NextHeader: layers.IPProtocolTCP, FragmentOffset: 1}
	for name, tc := range map[string]struct {
		prog  *ebpf.Program
		mark  uint32
		frame []byte
	}{
		"out, no mark":            {p.objects.ProbeOut, 0, frame6(t, local6, real6, tcp(40000, 80))},
		"out, IPv4's mark":        {p.objects.ProbeOut, mark, frame6(t, local6, real6, tcp(40000, 80))},
		"out, another real":       {p.objects.ProbeOut, mark6, frame6(t, local6, stranger6, tcp(40000, 80))},
		"out, echo reply":         {p.objects.ProbeOut, mark6, frame6(t, local6, real6, icmp6(129), gopacket.Payload{0, 1, 0, 1})},
		"out, IPv4":               {p.objects.ProbeOut, mark6, frame(t, local, real, nil, tcp(40000, 80))},
		"in, another local port":  {p.objects.ProbeIn, 0, frame6(t, vip6, local6, tcp(80, 40001))},
		"in, another port":        {p.objects.ProbeIn, 0, frame6(t, vip6, local6, tcp(81, 40000))},
		"in, another protocol":    {p.objects.ProbeIn, 0, frame6(t, vip6, local6, udp(80, 40000))},
		"in, another source":      {p.objects.ProbeIn, 0, frame6(t, stranger6, local6, tcp(80, 40000))},
		"in, a later fragment":    {p.objects.ProbeIn, 0, frame6(t, vip6, local6, fragment, gopacket.Payload("rest of a packet"))},
		"in, error about a rest":  {p.objects.ProbeIn, 0, frame6(t, vip6, local6, icmp6(1), gopacket.Payload("too short"))},
		"in, error about another": {p.objects.ProbeIn, 0, frame6(t, vip6, local6, icmp6(1), gopacket.Payload(append([]byte{0, 0, 0, 0}, frame6(t, local6, vip6, tcp(1, 2))[14:]...)))},
	} {
		if diff := cmp.Diff(tc.frame, run(t, tc.prog, tc.mark, tc.frame)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// An ICMP error about a probe is rewritten inside and, if it comes from the
// VIP, outside; its checksum stays right without being touched.
func TestRewriteError(t *testing.T) {
	for _, from := range []netip.Addr{vip, stranger} {
		p := loaded(t)
		sent := run(t, p.objects.ProbeOut, mark, frame(t, local, real, nil, udp(40000, 53)))
		got := run(t, p.objects.ProbeIn, 0, frame(t, from, local, nil, icmp(layers.ICMPv4TypeDestinationUnreachable, 0), gopacket.Payload(sent[14:])))
		outer, quoted := from, frame(t, local, real, nil, udp(40000, 53))
		if from == vip {
			outer = real
		}
		// The quoted UDP checksum stays that of the packet the real got;
		// the stack does not look at it.
		copy(quoted[14+20+6:], sent[14+20+6:14+20+8])
		want := frame(t, outer, local, nil, icmp(layers.ICMPv4TypeDestinationUnreachable, 0), gopacket.Payload(quoted[14:]))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("error from %s (-want +got):\n%s", from, diff)
		}
	}
}

// Whatever is not a probe or its reply passes as it is.
func TestLeaveAlone(t *testing.T) {
	p := loaded(t)
	run(t, p.objects.ProbeOut, mark, frame(t, local, real, nil, tcp(40000, 80)))
	fragment := func(ip *layers.IPv4) { ip.Flags = layers.IPv4MoreFragments }
	arp := bytes.Repeat([]byte{1}, 42)
	arp[12], arp[13] = 8, 6
	for name, tc := range map[string]struct {
		prog  *ebpf.Program
		mark  uint32
		frame []byte
	}{
		"out, no mark":            {p.objects.ProbeOut, 0, frame(t, local, real, nil, tcp(40000, 80))},
		"out, another mark":       {p.objects.ProbeOut, mark + 1, frame(t, local, real, nil, tcp(40000, 80))},
		"out, another real":       {p.objects.ProbeOut, mark, frame(t, local, stranger, nil, tcp(40000, 80))},
		"out, fragment":           {p.objects.ProbeOut, mark, frame(t, local, real, fragment, udp(40000, 80))},
		"out, echo reply":         {p.objects.ProbeOut, mark, frame(t, local, real, nil, icmp(layers.ICMPv4TypeEchoReply, 1))},
		"out, ARP":                {p.objects.ProbeOut, mark, arp},
		"in, another local port":  {p.objects.ProbeIn, 0, frame(t, vip, local, nil, tcp(80, 40001))},
		"in, another port":        {p.objects.ProbeIn, 0, frame(t, vip, local, nil, tcp(81, 40000))},
		"in, another protocol":    {p.objects.ProbeIn, 0, frame(t, vip, local, nil, udp(80, 40000))},
		"in, another source":      {p.objects.ProbeIn, 0, frame(t, stranger, local, nil, tcp(80, 40000))},
		"in, fragment":            {p.objects.ProbeIn, 0, frame(t, vip, local, fragment, tcp(80, 40000))},
		"in, ARP":                 {p.objects.ProbeIn, 0, arp},
		"in, error about a rest":  {p.objects.ProbeIn, 0, frame(t, vip, local, nil, icmp(layers.ICMPv4TypeDestinationUnreachable, 0), gopacket.Payload("too short"))},
		"in, error about another": {p.objects.ProbeIn, 0, frame(t, vip, local, nil, icmp(layers.ICMPv4TypeDestinationUnreachable, 0), gopacket.Payload(frame(t, local, vip, nil, tcp(1, 2))[14:]))},
	} {
		if diff := cmp.Diff(tc.frame, run(t, tc.prog, tc.mark, tc.frame)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMarks(t *testing.T) {
	p := loaded(t)
	loopback := netip.MustParseAddr("127.0.0.1")
	m, release, err := p.Open(loopback, vip, lb.DR, lb.Encap{})
	if err != nil || m != 0 {
		t.Errorf("this host: mark %#x, %v; want 0", m, err)
	}
	release()
	seen := map[uint32]bool{}
	for range maxPaths {
		n, err := p.number()
		if err != nil || n == 0 || seen[n] {
			t.Fatalf("number %d after %d others: %v", n, len(seen), err)
		}
		seen[n], p.used[n] = true, true
	}
	if n, err := p.number(); err == nil {
		t.Errorf("number %d, though all are used", n)
	}
	p.release(4711)
	if n, err := p.number(); err != nil || n != 4711 {
		t.Errorf("number %d, %v; want the released one", n, err)
	}
	check(t, p.Close())
	check(t, p.Close())
	p.release(1)
	if _, _, err := p.Open(real, vip, lb.DR, lb.Encap{}); err == nil {
		t.Error("a path opened after Close")
	}
}
