package xdp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Types and codes of ICMP (RFC 792) that a tunnel's errors have: those of which the
// kernel's IPVS takes notice (ip_vs_in_icmp).
const (
	icmpUnreachable  = 3
	icmpSourceQuench = 4
	icmpTimeExceeded = 11

	codeFragmentationNeeded = 4
)

// quoteMost is how much of a packet an error quotes: 576 bytes less the headers, as
// icmp_send has it.
const quoteMost = 576 - ipv4Len - icmpLen

// smallestMTU is the least that a way of IPv4 may have (RFC 791).
const smallestMTU = 68

// errTunnelFilter is the filter of a socket for ICMP that lets only errors in whose
// quoted packet may be of a tunnel.
var errTunnelFilter = []unix.SockFilter{
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},          // x: length of the IP header
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: icmpLen + 9}, // protocol of what is quoted
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolIPIP, Jt: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolUDP, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolGRE, Jf: 4},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 0}, // type
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpUnreachable, Jt: 3},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpTimeExceeded, Jt: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpSourceQuench, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
}

// errorRelay tells clients what routers between this host and reals by tunnel say
// of their packets. Such an error quotes the outer header and comes to this host's
// own address, where the packet path leaves it to the kernel.
type errorRelay struct {
	b    *Backend
	conn *net.IPConn // for errors; what clients are told goes by the holder's socket

	second time.Time // since when sent counts
	sent   uint32
}

func newErrorRelay(b *Backend) (*errorRelay, error) {
	conn, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
	if err != nil {
		return nil, fmt.Errorf("socket for errors about tunnels: %w", err)
	}
	if err := setFilter(conn, errTunnelFilter); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("filter for errors about tunnels: %w", err)
	}
	return &errorRelay{b: b, conn: conn}, nil
}

// setFilter has a socket take only what a classic BPF program lets in.
func setFilter(conn *net.IPConn, program []unix.SockFilter) error {
	own, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = own.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(err, failed)
}

// run relays until ctx ends.
func (r *errorRelay) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = r.conn.Close() })
	defer stop()
	buf := make([]byte, 1<<16)
	for {
		n, _, err := r.conn.ReadFromIP(buf)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.b.log.Error("read errors about tunnels", "err", err)
			return
		}
		if e, ok := parseTunnelError(buf[:n]); ok && r.b.hasTunnelled(e) {
			r.send(e)
		}
	}
}

// send tells a client, if not too many were told in this second.
func (r *errorRelay) send(e tunnelError) {
	if now := time.Now(); now.Sub(r.second) >= time.Second {
		r.second, r.sent = now, 0
	}
	if r.sent++; r.sent > r.b.dp.Settings.Answers {
		return
	}
	to := &unix.SockaddrInet4{Addr: e.client.Addr().As4()}
	if err := unix.Sendto(r.b.frags.raw, e.answer(), 0, to); err != nil {
		r.b.log.Debug("send an error about a tunnel to its client", "client", e.client, "err", err)
	}
}

// tunnelError is an ICMP error about a packet that this host has put into a tunnel.
type tunnelError struct {
	kind, code byte
	mtu        uint16 // of the way, without what the tunnel takes; with "fragmentation needed" alone
	method     bpf.ForwardMethod
	real       netip.AddrPort // to which the outer headers are addressed; without [lb.GUE] the port is 0
	proto      lb.Protocol
	client     netip.AddrPort
	vip        netip.AddrPort
	packet     []byte // the client's, from its IP header on, as much as is quoted
}

// parseTunnelError reads an ICMP message. ok is false for all but errors that quote
// a client's packet in a tunnel: all headers, and the ports.
func parseTunnelError(message []byte) (e tunnelError, ok bool) {
	if len(message) < icmpLen || checksum(message) != 0 {
		return e, false
	}
	e.kind, e.code = message[0], message[1]
	switch e.kind {
	case icmpUnreachable, icmpSourceQuench, icmpTimeExceeded:
	default:
		return e, false
	}
	outer, carried, ok := splitIPv4(message[icmpLen:])
	if !ok {
		return e, false
	}
	method, port, inner, ok := splitTunnel(outer[9], carried)
	if !ok {
		return e, false
	}
	header, ports, ok := splitIPv4(inner)
	if !ok || len(ports) < 8 {
		return e, false
	}
	e.proto = lb.Protocol(header[9])
	if e.proto != lb.TCP && e.proto != lb.UDP {
		return e, false
	}
	e.method, e.real, e.packet = method, netip.AddrPortFrom(netip.AddrFrom4([4]byte(outer[16:20])), port), inner
	e.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(header[12:16])), binary.BigEndian.Uint16(ports))
	e.vip = netip.AddrPortFrom(netip.AddrFrom4([4]byte(header[16:20])), binary.BigEndian.Uint16(ports[2:]))
	if e.kind == icmpUnreachable && e.code == codeFragmentationNeeded {
		e.mtu = binary.BigEndian.Uint16(message[6:])
		if overhead := uint16(wayOf[method].kind.Overhead(e.real.Addr())); e.mtu > smallestMTU+overhead {
			e.mtu -= overhead
		}
		if isDontFragment := header[6]&0x40 != 0; !isDontFragment {
			return e, false // its sender does not ask for the size
		}
	}
	return e, true
}

// splitTunnel finds the packet of IPv4 that follows an outer IP header, which says of
// what protocol its contents are. port is where GUE is addressed to.
func splitTunnel(protocol byte, carried []byte) (method bpf.ForwardMethod, port uint16, inner []byte, ok bool) {
	switch {
	case protocol == protocolIPIP:
		return bpf.ForwardIpip, 0, carried, true
	case protocol == protocolUDP && len(carried) >= gueLen && bytes.Equal(carried[8:gueLen], []byte{0, protocolIPIP, 0, 0}):
		return bpf.ForwardGue, binary.BigEndian.Uint16(carried[2:]), carried[gueLen:], true
	case protocol == protocolGRE && len(carried) >= greLen && bytes.Equal(carried[:greLen], []byte{0, 0, 0x08, 0}):
		return bpf.ForwardGre, 0, carried[greLen:], true
	}
	return 0, 0, nil, false
}

// splitIPv4 splits a packet behind its header. ok is false if the header is not
// whole, or the packet is a later fragment.
func splitIPv4(packet []byte) (header, rest []byte, ok bool) {
	if len(packet) < ipv4Len || packet[0]>>4 != 4 {
		return nil, nil, false
	}
	length := int(packet[0]&15) * 4
	isLaterFragment := binary.BigEndian.Uint16(packet[6:])&0x1fff != 0
	if length < ipv4Len || length > len(packet) || isLaterFragment {
		return nil, nil, false
	}
	return packet[:length], packet[length:], true
}

// answer is what the client is told: the error as the VIP would send it
// (icmp_send). The kernel fills in the identification, and the header's checksum.
func (e tunnelError) answer() []byte {
	quote := e.packet[:min(len(e.packet), quoteMost)]
	b := make([]byte, ipv4Len+icmpLen, ipv4Len+icmpLen+len(quote))
	b[0], b[1], b[8], b[9] = 0x45, e.packet[1]&0x1e|0xc0, 64, byte(lb.ICMP)
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	vip, client := e.vip.Addr().As4(), e.client.Addr().As4()
	copy(b[12:], vip[:])
	copy(b[16:], client[:])
	b[ipv4Len], b[ipv4Len+1] = e.kind, e.code
	binary.BigEndian.PutUint16(b[ipv4Len+6:], e.mtu)
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[ipv4Len+2:], checksum(b[ipv4Len:]))
	return b
}

// hasTunnelled reports whether the packet that an error quotes may have left this
// host: its real is reached by tunnel, and it is of a connection that is known, or of a
// service that knows none.
func (b *Backend) hasTunnelled(e tunnelError) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.index().find(e.vip, e.proto)
	isByTunnel := func(r *real) bool {
		return r.conf.Addr == e.real.Addr() && methodOf(r.conf) == e.method && r.conf.Encap.Port == e.real.Port()
	}
	if s != nil && s.conf.KeepsNoFlows() {
		for _, r := range s.reals {
			if isByTunnel(r) {
				return true
			}
		}
		return false
	}
	v, ok := b.findFlow(e.proto, e.client, e.vip)
	return ok && b.dp.Reals[v.Real()].Method() == e.method && b.addressOf(v.Real()) == e.real.Addr() &&
		(e.method != bpf.ForwardGue || bpf.PortWord(b.dp.Tunnels[v.Real()].Port) == e.real.Port())
}

// findFlow finds a client's live flow of IPv4 to a VIP's port.
func (b *Backend) findFlow(proto lb.Protocol, client, vip netip.AddrPort) (bpf.FlowValue, bool) {
	number, ok := b.numbers.of[endpoint{vip.Addr(), proto}]
	if !ok {
		return 0, false
	}
	t, want, now := b.flowTables()[0], bpf.FlowKeyOf(client.Addr(), client.Port(), number), b.now()
	for _, set := range bpf.TwoSets(b.dp.Settings.FlowHash(client, vip), uint32(t.sets())) {
		for way := range bpf.Ways {
			e, _, value, isLive := t.read(int(set), way)
			v := bpf.FlowValue(value)
			if isLive && bpf.FlowKey(e.key) == want && v.Port() == vip.Port() && !b.expired(v, now) {
				return v, true
			}
		}
	}
	return 0, false
}
