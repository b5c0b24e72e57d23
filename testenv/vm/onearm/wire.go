package onearm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Packet is one packet of a client, as short as it can be.
type Packet struct {
	Src, Dst netip.AddrPort
	UDP      bool
	Flags    string // TCP flags as letters of "SAFRPU", in any order
	Payload  []byte
	TTL      uint8 // 0 is 64
}

// Seen is a frame that the director sent.
type Seen struct {
	Real  int  // the real server it is addressed to by MAC, 0 if none
	Back  bool // it goes to the router, that is, back to a client
	Frame gopacket.Packet
}

// Send puts a packet on the wire and returns everything the director sent
// because of it.
func (n *Net) Send(p Packet) ([]Seen, error) {
	frame, err := p.Bytes()
	if err != nil {
		return nil, err
	}
	return n.SendFrame(frame)
}

// Choose sends a packet and returns which real server got it, 0 if none. More
// than one is an error.
func (n *Net) Choose(p Packet) (int, error) {
	seen, err := n.Send(p)
	if err != nil {
		return 0, err
	}
	chosen := 0
	for _, s := range seen {
		if s.Real == 0 {
			continue
		}
		if chosen != 0 {
			return 0, fmt.Errorf("packet %v reached rs%d and rs%d", p, chosen, s.Real)
		}
		chosen = s.Real
	}
	return chosen, nil
}

// SendFrame is Send for a whole Ethernet frame.
func (n *Net) SendFrame(frame []byte) ([]Seen, error) {
	if err := n.drain(); err != nil {
		return nil, err
	}
	if err := unix.Send(n.sock, frame, 0); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return n.Finish()
}

// Finish waits until the director is done with all frames before, and returns
// what it sent. An XDP program's answer may be behind that of the stack which
// says so: who misses a frame calls Finish once more.
func (n *Net) Finish() ([]Seen, error) {
	// The director answers ARP in the order of arrival.
	if err := unix.Send(n.sock, arpRequest(), 0); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return n.collect(5 * time.Second)
}

func (n *Net) collect(patience time.Duration) ([]Seen, error) {
	var seen []Seen
	for deadline := time.Now().Add(patience); ; {
		frame, err := n.receive(time.Until(deadline))
		if err != nil {
			return seen, err
		}
		if arp, ok := frame.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
			if arp.Operation == layers.ARPReply {
				return seen, nil
			}
			continue
		}
		seen = append(seen, identify(frame))
	}
}

// identify says by MAC where a frame goes.
func identify(frame gopacket.Packet) Seen {
	s := Seen{Frame: frame}
	eth, ok := frame.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if !ok {
		return s
	}
	mac := eth.DstMAC
	switch {
	case mac.String() == RouterMAC.String():
		s.Back = true
	case strings.HasPrefix(mac.String(), "02:00:00:00:01:"):
		s.Real = int(mac[5])
	}
	return s
}

func (n *Net) receive(patience time.Duration) (gopacket.Packet, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(n.sock), Events: unix.POLLIN}}
		ready, err := unix.Poll(fds, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("wire: %w", err)
		}
		if ready == 0 {
			return nil, errors.New("wire: the director does not answer ARP")
		}
		size, from, err := unix.Recvfrom(n.sock, n.buf[:], 0)
		if err != nil {
			return nil, fmt.Errorf("wire: %w", err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		return gopacket.NewPacket(n.buf[:size], layers.LayerTypeEthernet, gopacket.Default), nil
	}
}

// drain throws away what came unasked, for example resent by a timer.
func (n *Net) drain() error {
	for {
		_, _, err := unix.Recvfrom(n.sock, n.buf[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wire: %w", err)
		}
	}
}

// openWire opens the test's end of the pair.
func openWire() (int, error) {
	wire, err := net.InterfaceByName(Wire)
	if err != nil {
		return -1, err
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	sock, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.Bind(sock, &unix.SockaddrLinklayer{Protocol: all, Ifindex: wire.Index}); err != nil {
		unix.Close(sock)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return sock, nil
}

// Bytes is the packet as a frame from the router.
func (p Packet) Bytes() ([]byte, error) {
	ttl := p.TTL
	if ttl == 0 {
		ttl = 64
	}
	eth := &layers.Ethernet{SrcMAC: RouterMAC, DstMAC: DirectorMAC, EthernetType: layers.EthernetTypeIPv4}
	proto := layers.IPProtocolTCP
	if p.UDP {
		proto = layers.IPProtocolUDP
	}
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	} = &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: p.Src.Addr().AsSlice(), DstIP: p.Dst.Addr().AsSlice(), Flags: layers.IPv4DontFragment}
	if p.Dst.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: p.Src.Addr().AsSlice(), DstIP: p.Dst.Addr().AsSlice()}
	}
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	buf := gopacket.NewSerializeBuffer()
	l4, err := p.transport(ip)
	if err != nil {
		return nil, err
	}
	err = gopacket.SerializeLayers(buf, opts, eth, ip, l4, gopacket.Payload(p.Payload))
	return buf.Bytes(), err
}

func (p Packet) transport(ip gopacket.NetworkLayer) (gopacket.SerializableLayer, error) {
	if p.UDP {
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.Src.Port()), DstPort: layers.UDPPort(p.Dst.Port())}
		return udp, udp.SetNetworkLayerForChecksum(ip)
	}
	has := func(flag string) bool { return strings.Contains(p.Flags, flag) }
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(p.Src.Port()), DstPort: layers.TCPPort(p.Dst.Port()), Seq: 1000, Ack: 0, Window: 64240,
		SYN: has("S"), ACK: has("A"), FIN: has("F"), RST: has("R"), PSH: has("P"), URG: has("U"),
	}
	return tcp, tcp.SetNetworkLayerForChecksum(ip)
}

// arpRequest asks for the director's MAC.
func arpRequest() []byte {
	buf := gopacket.NewSerializeBuffer()
	eth := &layers.Ethernet{SrcMAC: RouterMAC, DstMAC: DirectorMAC, EthernetType: layers.EthernetTypeARP}
	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
		SourceHwAddress: RouterMAC, SourceProtAddress: Router.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: Director.AsSlice(),
	}
	// Fixed fields of right lengths cannot fail to serialize.
	_ = gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, eth, arp)
	return buf.Bytes()
}
