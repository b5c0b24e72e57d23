package neigh

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
)

const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	headerLen = 14
)

var (
	broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
	// RFC 2464 section 7: 33:33 and the last four bytes of the group.
	allNodesMAC = MAC{0x33, 0x33, 0, 0, 0, 1}
)

// ICMPv6 as neighbour discovery uses it (RFC 4861 section 4).
const (
	protoICMPv6  = 58
	hopLimit     = 255 // a receiver drops any other hop limit
	ipv6HeadLen  = 40
	solicitation = 135
	advertising  = 136
)

// srcAddr is the sender address of a request. The zero value asks as a probe
// does, from 0.0.0.0 (RFC 5227 section 1.1), which every host answers.
type srcAddr struct{ netip.Addr }

func ethernetFrame(dst, src MAC, kind uint16, payload []byte) []byte {
	b := make([]byte, 0, headerLen+len(payload))
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	b = binary.BigEndian.AppendUint16(b, kind)
	return append(b, payload...)
}

func arpFrame(to MAC, op arp.Operation, sender MAC, spa netip.Addr, target MAC, tpa netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(op, sender[:], spa, target[:], tpa)
	if err != nil {
		return nil, err
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return ethernetFrame(to, sender, etherARP, b), nil
}

// requestFrame asks for the MAC of addr: the station that had it last, or all.
func requestFrame(to MAC, p path, addr netip.Addr) ([]byte, error) {
	src := p.src.Addr
	if addr.Is6() {
		return solicitFrame(to, p.mac, src, addr)
	}
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	if to == (MAC{}) {
		to = broadcast
	}
	return arpFrame(to, arp.OperationRequest, p.mac, src, MAC{}, addr)
}

// solicitFrame is a neighbour solicitation for addr, to the station that had
// it last or to the solicited-node group (RFC 4861 section 7.2.2). Without a
// source it asks as a probe for duplicates does (RFC 4862 section 5.4.2).
func solicitFrame(to, mac MAC, src, addr netip.Addr) ([]byte, error) {
	dst := addr
	if to == (MAC{}) {
		a := addr.As16()
		dst = netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, a[13], a[14], a[15]})
		to = MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}
	}
	ns := &ndp.NeighborSolicitation{TargetAddress: addr}
	if src.IsValid() {
		ns.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac[:]}}
	} else {
		src = netip.IPv6Unspecified()
	}
	return ndpFrame(to, mac, src, dst, ns)
}

// announceFrame says that vip is at mac: for IPv4 a gratuitous ARP
// request as keepalived sends it (sender and target are the VIP, the target's
// MAC is all ones), for IPv6 an unsolicited neighbour advertisement with the
// override flag (RFC 4861 section 7.2.6), from the VIP itself. On a host that
// routes, the advertisement says so: hosts that use the VIP as their router
// would drop it otherwise.
func announceFrame(mac MAC, vip netip.Addr, isRouter bool) ([]byte, error) {
	if vip.Is4() {
		return arpFrame(broadcast, arp.OperationRequest, mac, vip, broadcast, vip)
	}
	na := &ndp.NeighborAdvertisement{
		Router:        isRouter,
		Override:      true,
		TargetAddress: vip,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
	}
	return ndpFrame(allNodesMAC, mac, vip, allNodes, na)
}

// ndpFrame puts a message of neighbour discovery into an Ethernet frame.
func ndpFrame(to, mac MAC, src, dst netip.Addr, m ndp.Message) ([]byte, error) {
	icmp, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		return nil, err
	}
	h := binary.BigEndian.AppendUint32(nil, 6<<28)
	h = binary.BigEndian.AppendUint16(h, uint16(len(icmp)))
	h = append(h, protoICMPv6, hopLimit)
	h = append(h, src.AsSlice()...)
	h = append(h, dst.AsSlice()...)
	return ethernetFrame(to, mac, etherIPv6, append(h, icmp...)), nil
}

// parseSender reads which station says that it has which address: the sender
// of an ARP packet, answer or not; the target of a neighbour advertisement;
// the source of a neighbour solicitation. ok is false for what is not a sound
// message of one Ethernet station.
func parseSender(frame []byte) (addr netip.Addr, mac MAC, ok bool) {
	if len(frame) < headerLen {
		return netip.Addr{}, MAC{}, false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return parseARP(frame)
	case etherIPv6:
		return parseNDP(frame)
	}
	return netip.Addr{}, MAC{}, false
}

// parseNDP reads a solicitation or an advertisement. An answer to a question
// that was sent to one station may leave its MAC out: the frame's source
// counts then (RFC 4861 section 4.4).
func parseNDP(frame []byte) (addr netip.Addr, mac MAC, ok bool) {
	b := frame[headerLen:]
	if len(b) < ipv6HeadLen+4 || b[0]>>4 != 6 || b[6] != protoICMPv6 || b[7] != hopLimit {
		return netip.Addr{}, MAC{}, false
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	if size > len(b)-ipv6HeadLen {
		return netip.Addr{}, MAC{}, false
	}
	src, _ := netip.AddrFromSlice(b[8:24])
	m, err := ndp.ParseMessage(b[ipv6HeadLen : ipv6HeadLen+size])
	if err != nil {
		return netip.Addr{}, MAC{}, false
	}
	var options []ndp.Option
	hardware := frame[6:12]
	switch m := m.(type) {
	case *ndp.NeighborAdvertisement:
		addr, options = m.TargetAddress, m.Options
	case *ndp.NeighborSolicitation:
		addr, options = src, m.Options
	}
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}, MAC{}, false
	}
	for _, o := range options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok {
			hardware = l.Addr
		}
	}
	mac, ok = macFrom(hardware)
	return addr, mac, ok
}

func parseARP(frame []byte) (addr netip.Addr, mac MAC, ok bool) {
	var p arp.Packet
	if p.UnmarshalBinary(frame[headerLen:]) != nil {
		return netip.Addr{}, MAC{}, false
	}
	const ethernetType, ipv4 = 1, 0x0800
	if p.HardwareType != ethernetType || p.ProtocolType != ipv4 || !p.SenderIP.Is4() || p.SenderIP.IsUnspecified() {
		return netip.Addr{}, MAC{}, false
	}
	if p.Operation != arp.OperationRequest && p.Operation != arp.OperationReply {
		return netip.Addr{}, MAC{}, false
	}
	mac, ok = macFrom(p.SenderHardwareAddr)
	return p.SenderIP, mac, ok
}
