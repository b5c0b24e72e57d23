package main

import (
	"encoding/binary"
	"net/netip"
)

// Sizes of frames (bpf/bench/plan.h).
const (
	shortFrame  = 64
	shortFrame6 = 80
	longFrame   = 96
)

// TCP flags.
const (
	fin = 1
	syn = 2
	ack = 16
)

const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

var (
	directorMAC = [6]byte{2, 0, 0, 0, 0, 1}
	clientMAC   = [6]byte{2, 0, 0, 0, 0, 200}
	elsewhere   = [6]byte{2, 0, 0, 0, 0, 99}

	firstVIP  = netip.MustParseAddr("10.240.0.1")
	firstReal = netip.MustParseAddr("10.242.0.1")
	otherVIP  = netip.MustParseAddr("10.250.0.1") // no VIP of ours

	ownAddr = netip.MustParseAddr("10.241.0.1")   // of the director
	gateway = netip.MustParseAddr("10.241.0.254") // of all clients

	firstVIP6 = netip.MustParseAddr("2001:db8:240::1")
	client6   = netip.MustParseAddr("2001:db8:10::") // the last word is the flow's
)

// frame is a template: the generator fills addresses and ports in.
type frame [longFrame]byte

// packet starts a frame with Ethernet and an IPv4 header of so many bytes of
// content.
func packet(proto byte, content int) frame {
	var f frame
	copy(f[0:], directorMAC[:])
	copy(f[6:], clientMAC[:])
	f[12] = 8
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(20+content))
	return f
}

func tcpFrame(flags byte) frame {
	f := packet(protoTCP, 20)
	f[14+32] = 0x50
	return f.with(flags)
}

func udpFrame() frame {
	f := packet(protoUDP, shortFrame-34)
	binary.BigEndian.PutUint16(f[14+24:], shortFrame-34)
	return f
}

// packet6 starts a frame to the VIP with Ethernet and an IPv6 header of so many
// bytes of content.
func packet6(proto byte, content int) frame {
	var f frame
	copy(f[0:], directorMAC[:])
	copy(f[6:], clientMAC[:])
	f[12], f[13] = 0x86, 0xdd
	ip := f[14:]
	ip[0], ip[6], ip[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(content))
	from, to := client6.As16(), firstVIP6.As16()
	copy(ip[8:], from[:])
	copy(ip[24:], to[:])
	return f
}

func tcpFrame6(flags byte) frame {
	f := packet6(protoTCP, 20)
	f[14+52] = 0x50
	return f.with(flags)
}

func udpFrame6() frame {
	f := packet6(protoUDP, shortFrame6-54)
	binary.BigEndian.PutUint16(f[14+44:], shortFrame6-54)
	return f
}

func (f frame) isIPv6() bool { return f[12] == 0x86 }

// with gives a TCP frame other flags.
func (f frame) with(flags byte) frame {
	if f.isIPv6() {
		f[14+53] = flags
	} else {
		f[14+33] = flags
	}
	return f
}

// firstFragment is a UDP packet that has more to come.
func firstFragment() frame {
	f := udpFrame()
	f[14+6] = 0x20
	return f
}

// laterFragment has an offset, and no ports.
func laterFragment() frame {
	f := packet(protoUDP, shortFrame-34)
	f[14+7] = 4
	return f
}

// icmpError quotes a TCP packet of the VIP: host unreachable, from a router.
func icmpError() frame {
	f := packet(protoICMP, 36)
	ip := f[14:]
	copy(ip[12:], []byte{10, 230, 0, 1})
	ip[20], ip[21] = 3, 1
	quoted := ip[28:]
	quoted[0], quoted[8], quoted[9] = 0x45, 60, protoTCP
	binary.BigEndian.PutUint16(quoted[2:], 40)
	return f
}

// to sends the frame to another MAC.
func (f frame) to(mac [6]byte) frame {
	copy(f[0:], mac[:])
	return f
}

// size is how long the frame is on the wire.
func (f frame) size() int {
	switch {
	case f.isIPv6():
		return shortFrame6
	case f[14+9] == protoICMP:
		return longFrame
	}
	return shortFrame
}
