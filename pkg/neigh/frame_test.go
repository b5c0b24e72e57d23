package neigh

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"pgregory.net/rapid"
)

var (
	mac1 = MAC{2, 0, 0, 0, 0, 1}
	mac2 = MAC{2, 0, 0, 0, 0, 2}
	mac3 = MAC{2, 0, 0, 0, 0, 3}
	r1   = netip.MustParseAddr("172.25.0.12")
	r2   = netip.MustParseAddr("172.25.0.13")
	vip1 = netip.MustParseAddr("172.25.0.100")
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are keepalived 2.2.7's, for VIP 10.99.0.100 (vrrp-facts,
// "Gratuitous ARP / NA").
func TestGratuitousARPIsKeepalived(t *testing.T) {
	got, err := announceFrame(mac1, netip.MustParseAddr("10.99.0.100"), false)
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, "ffffffffffff"+"020000000001"+"0806"+"0001"+"0800"+"06"+"04"+"0001"+
		"020000000001"+"0a630064"+"ffffffffffff"+"0a630064")
	if !bytes.Equal(got, want) || len(got) != 42 {
		t.Errorf("frame\n%x, want\n%x", got, want)
	}
}

func TestUnsolicitedAdvertisement(t *testing.T) {
	vip := netip.MustParseAddr("fd99::100")
	b, err := announceFrame(mac1, vip, false)
	if err != nil {
		t.Fatal(err)
	}
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	na := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if eth.DstMAC.String() != "33:33:00:00:00:01" || eth.SrcMAC.String() != mac1.String() {
		t.Errorf("Ethernet %s > %s", eth.SrcMAC, eth.DstMAC)
	}
	if ip.SrcIP.String() != vip.String() || ip.DstIP.String() != "ff02::1" || ip.HopLimit != 255 {
		t.Errorf("IPv6 %s > %s, hop limit %d", ip.SrcIP, ip.DstIP, ip.HopLimit)
	}
	if na.Flags != 0x20 || na.TargetAddress.String() != vip.String() || len(na.Options) != 1 || !bytes.Equal(na.Options[0].Data, mac1[:]) {
		t.Errorf("advertisement %+v", na)
	}
	if errs := verify(p); len(errs) > 0 {
		t.Errorf("checksums: %v", errs)
	}
}

// verify checks the packet's checksums.
func verify(p gopacket.Packet) []gopacket.ChecksumMismatch {
	icmp := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if err := icmp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
		return []gopacket.ChecksumMismatch{{}}
	}
	_, errs := p.VerifyChecksums()
	return errs
}

func TestRequest(t *testing.T) {
	for name, c := range map[string]struct {
		to   MAC
		src  netip.Addr
		want string
	}{
		"to all":     {MAC{}, r2, "ffffffffffff0200000000010806" + "0001080006040001" + "020000000001ac19000d" + "000000000000ac19000c"},
		"to one":     {mac2, r2, "0200000000020200000000010806" + "0001080006040001" + "020000000001ac19000d" + "000000000000ac19000c"},
		"as a probe": {MAC{}, netip.Addr{}, "ffffffffffff0200000000010806" + "0001080006040001" + "02000000000100000000" + "000000000000ac19000c"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := requestFrame(c.to, path{mac: mac1, src: srcAddr{c.src}}, r1)
			if err != nil || !bytes.Equal(got, unhex(t, c.want)) {
				t.Errorf("%x, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestSender(t *testing.T) {
	sound := "ffffffffffff0200000000020806" + "0001080006040001" + "020000000002ac19000c" + "000000000000ac19000b"
	edit := func(at int, b ...byte) []byte {
		f := unhex(t, sound)
		copy(f[at:], b)
		return f
	}
	for name, c := range map[string]struct {
		frame []byte
		ok    bool
	}{
		"request":         {edit(0), true},
		"reply":           {edit(21, 2), true},
		"padded":          {append(edit(0), make([]byte, 18)...), true},
		"empty":           {nil, false},
		"cut":             {edit(0)[:41], false},
		"header only":     {edit(0)[:14], false},
		"IPv4":            {edit(12, 8, 0), false},
		"RARP":            {edit(21, 3), false},
		"not Ethernet":    {edit(15, 6), false},
		"not IPv4 inside": {edit(16, 0x86, 0xdd), false},
		"long MACs":       {append(edit(18, 8), make([]byte, 18)...), false},
		"IPv6 length":     {append(edit(19, 16), make([]byte, 32)...), false},
		"group MAC":       {edit(22, 3), false},
		"zero MAC":        {edit(22, 0, 0, 0, 0, 0, 0), false},
		"probe":           {edit(28, 0, 0, 0, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			addr, mac, ok := parseSender(c.frame)
			if ok != c.ok || ok && (addr != r1 || mac != mac2) {
				t.Errorf("%s %s %v, want %v", addr, mac, ok, c.ok)
			}
		})
	}
}

func TestSenderOfNeighbourDiscovery(t *testing.T) {
	six, asker := netip.MustParseAddr("fd99::12"), netip.MustParseAddr("fe80::1")
	advertise := func(src netip.Addr, options ...ndp.Option) []byte {
		na := &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: six, Options: options}
		b, err := ndpFrame(mac1, mac2, src, asker, na)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	solicit := func(to MAC, src netip.Addr) []byte {
		b, err := solicitFrame(to, mac2, src, six)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	target := &ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac2[:]}
	for name, c := range map[string]struct {
		frame []byte
		addr  netip.Addr
		ok    bool
	}{
		"advertisement":            {advertise(six, target), six, true},
		"from another address":     {advertise(asker, target), six, true},
		"without an option":        {advertise(six), six, true},
		"solicitation":             {solicit(MAC{}, asker), asker, true},
		"to one station":           {solicit(mac1, asker), asker, true},
		"probe for duplicates":     {solicit(MAC{}, netip.Addr{}), netip.Addr{}, false},
		"padded":                   {append(advertise(six, target), 0, 0, 0), six, true},
		"cut":                      {advertise(six, target)[:70], netip.Addr{}, false},
		"routed":                   {edit(advertise(six, target), headerLen+7, 254), netip.Addr{}, false},
		"another protocol":         {edit(advertise(six, target), headerLen+6, 17), netip.Addr{}, false},
		"another version":          {edit(advertise(six, target), headerLen, 0x40), netip.Addr{}, false},
		"another message":          {edit(advertise(six, target), headerLen+ipv6HeadLen, 128), netip.Addr{}, false},
		"of a group":               {edit(advertise(six, target), headerLen+ipv6HeadLen+8, 0xff), netip.Addr{}, false},
		"length beyond the end":    {edit(advertise(six, target), headerLen+5, 200), netip.Addr{}, false},
		"at the MAC of a group":    {edit(advertise(six), 6, 3), netip.Addr{}, false},
		"option of length nothing": {edit(advertise(six, target), headerLen+ipv6HeadLen+25, 0), netip.Addr{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			addr, mac, ok := parseSender(c.frame)
			if ok != c.ok || ok && (addr != c.addr || mac != mac2) {
				t.Errorf("%s %s %v, want %s %v", addr, mac, ok, c.addr, c.ok)
			}
		})
	}
}

// A question goes to the group that the address listens to (RFC 4291 section
// 2.7.1), or to the one station that had it.
func TestSolicitation(t *testing.T) {
	six, own := netip.MustParseAddr("fd99::1:2ab:cdef"), netip.MustParseAddr("fe80::1")
	for name, c := range map[string]struct {
		to    MAC
		mac   string
		group string
	}{
		"to all": {MAC{}, "33:33:ff:ab:cd:ef", "ff02::1:ffab:cdef"},
		"to one": {mac2, mac2.String(), six.String()},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := requestFrame(c.to, path{mac: mac1, src: srcAddr{own}}, six)
			if err != nil {
				t.Fatal(err)
			}
			p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
			eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
			ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
			ns := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
			got := []string{eth.DstMAC.String(), ip.DstIP.String(), ns.TargetAddress.String(), ip.SrcIP.String()}
			if d := cmp.Diff([]string{c.mac, c.group, six.String(), own.String()}, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func FuzzSender(f *testing.F) {
	for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		b, err := arpFrame(mac1, op, mac2, r1, mac1, r2)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	six := netip.MustParseAddr("fd99::12")
	for _, frame := range [][]byte{must(announceFrame(mac1, six, true)), must(solicitFrame(MAC{}, mac1, six, six))} {
		f.Add(frame)
		f.Add(frame[:len(frame)-1])
	}
	f.Add([]byte{11: 0, 12: 8, 13: 6, 18: 255, 19: 255}) // lengths beyond the end
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, mac, ok := parseSender(b)
		if ok && (!addr.IsValid() || addr.IsUnspecified() || mac == MAC{} || mac[0]&1 != 0) {
			t.Errorf("accepted %s at %s", addr, mac)
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestSenderReadsWhatWeSend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Filter(func(b []byte) bool {
			return !bytes.Equal(b, make([]byte, 4))
		}).Draw(t, "addr")))
		mac := MAC(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
		mac[0] = mac[0]&^1 | 2
		frame, err := requestFrame(MAC{}, path{mac: mac, src: srcAddr{addr}}, r1)
		if err != nil {
			t.Fatal(err)
		}
		gotAddr, gotMAC, ok := parseSender(frame)
		if !ok || gotAddr != addr || gotMAC != mac {
			t.Errorf("%s %s %v", gotAddr, gotMAC, ok)
		}
	})
}

func TestMAC(t *testing.T) {
	got := []string{MAC{}.String(), mac1.String()}
	if d := cmp.Diff([]string{"", "02:00:00:00:00:01"}, got); d != "" {
		t.Error(d)
	}
}
