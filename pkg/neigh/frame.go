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
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	if to == (MAC{}) {
		to = broadcast
	}
	return arpFrame(to, arp.OperationRequest, p.mac, src, MAC{}, addr)
}

// announceFrame says that vip is at mac: for IPv4 a gratuitous ARP
// request as keepalived sends it (sender and target are the VIP, the target's
// MAC is all ones), for IPv6 an unsolicited neighbour advertisement with the
// override flag (RFC 4861 section 7.2.6), from the VIP itself.
func announceFrame(mac MAC, vip netip.Addr) ([]byte, error) {
	if vip.Is4() {
		return arpFrame(broadcast, arp.OperationRequest, mac, vip, broadcast, vip)
	}
	na := &ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: vip,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
	}
	icmp, err := ndp.MarshalMessageChecksum(na, vip, allNodes)
	if err != nil {
		return nil, err
	}
	const icmpv6, hopLimit = 58, 255 // RFC 4861: a receiver drops any other hop limit
	h := binary.BigEndian.AppendUint32(nil, 6<<28)
	h = binary.BigEndian.AppendUint16(h, uint16(len(icmp)))
	h = append(h, icmpv6, hopLimit)
	h = append(h, vip.AsSlice()...)
	h = append(h, allNodes.AsSlice()...)
	return ethernetFrame(allNodesMAC, mac, etherIPv6, append(h, icmp...)), nil
}

// parseSender reads the sender of an ARP frame. Every ARP packet names it, answer or
// not; ok is false for what is not a sound ARP packet of one Ethernet
// station.
func parseSender(frame []byte) (addr netip.Addr, mac MAC, ok bool) {
	if len(frame) < headerLen || binary.BigEndian.Uint16(frame[12:]) != etherARP {
		return netip.Addr{}, MAC{}, false
	}
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
