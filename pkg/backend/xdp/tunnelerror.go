package xdp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

// The same of ICMPv6 (RFC 4443).
const (
	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4

	protocolICMPv6 = 58
)

// quoteMost and quoteMost6 are how much of a packet an error quotes: 576 bytes less the
// headers, as icmp_send has it, and 1280 less them (icmpv6_send).
const (
	quoteMost  = 576 - ipv4Len - icmpLen
	quoteMost6 = 1280 - ipv6Len - icmpLen
)

// The least that a way of IPv4 (RFC 791) and one of IPv6 (RFC 8200) may have.
const (
	smallestMTU  = 68
	smallestMTU6 = 1280
)

// errTunnelFilter is the filter of a socket for ICMP that lets only errors in whose
// quoted packet may be of a tunnel.
var errTunnelFilter = []unix.SockFilter{
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},          // x: length of the IP header
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: icmpLen + 9}, // protocol of what is quoted
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolIPIP, Jt: 3},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolUDP, Jt: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolIPv6, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolGRE, Jf: 4},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 0}, // type
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpUnreachable, Jt: 3},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpTimeExceeded, Jt: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpSourceQuench, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
}

// errTunnelFilter6 is the same for ICMPv6, whose socket does not show the IP header.
var errTunnelFilter6 = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: icmpLen + 6}, // protocol of what is quoted
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolIPIP, Jt: 3},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolUDP, Jt: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolIPv6, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protocolGRE, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 0}, // type
	{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: icmp6Parameter, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: icmp6Unreachable, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
}

// errorRelay tells clients what routers between this host and reals by tunnel say
// of their packets. Such an error quotes the outer header and comes to the address that
// it had as source, where the packet path leaves it to the kernel.
type errorRelay struct {
	b    *Backend
	conn *net.IPConn // for errors about outer headers of one family
	raw6 int         // for what clients of IPv6 are told; those of IPv4 by the holder's socket
	is6  bool        // whose errors are ICMPv6

	second time.Time // since when sent counts
	sent   uint32
}

func newErrorRelay(b *Backend, is6 bool) (*errorRelay, error) {
	network, filter := "ip4:icmp", errTunnelFilter
	everywhere := net.IPv4zero
	if is6 {
		network, filter, everywhere = "ip6:ipv6-icmp", errTunnelFilter6, net.IPv6unspecified
	}
	conn, err := net.ListenIP(network, &net.IPAddr{IP: everywhere})
	if err != nil {
		return nil, fmt.Errorf("socket for errors about tunnels: %w", err)
	}
	if err := setFilter(conn, filter); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("filter for errors about tunnels: %w", err)
	}
	raw6, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		raw6 = -1 // a host without IPv6 has no client of it
	}
	return &errorRelay{b: b, conn: conn, raw6: raw6, is6: is6}, nil
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
	defer func() { _ = unix.Close(r.raw6) }()
	buf := make([]byte, 1<<16)
	for {
		n, _, err := r.conn.ReadFromIP(buf) // of ICMPv6 the kernel has looked at the checksum
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.b.log.Error("read errors about tunnels", "err", err)
			return
		}
		parse := parseTunnelError
		if r.is6 {
			parse = parseTunnelError6
		}
		if e, ok := parse(buf[:n]); ok && r.b.hasTunnelled(e) {
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
	socket, to := r.raw6, unix.Sockaddr(&unix.SockaddrInet6{Addr: e.client.Addr().As16()})
	if e.client.Addr().Is4() {
		socket, to = r.b.frags.raw, &unix.SockaddrInet4{Addr: e.client.Addr().As4()}
	}
	if err := unix.Sendto(socket, e.answer(), 0, to); err != nil {
		r.b.log.Debug("send an error about a tunnel to its client", "client", e.client, "err", err)
	}
}

// tunnelError is an ICMP error about a packet that this host has put into a tunnel.
type tunnelError struct {
	kind, code byte   // of the client's family
	mtu        uint32 // of the way, without what the tunnel takes; if the packet was too long for it alone
	method     bpf.ForwardMethod
	source     netip.Addr     // from which the outer headers come
	real       netip.AddrPort // to which they are addressed; without [lb.GUE] the port is 0
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
	e.source = netip.AddrFrom4([4]byte(outer[12:16]))
	if !e.split(netip.AddrFrom4([4]byte(outer[16:20])), outer[9], carried) {
		return e, false
	}
	isTooBig := e.kind == icmpUnreachable && e.code == codeFragmentationNeeded
	if isTooBig {
		e.mtu = uint32(binary.BigEndian.Uint16(message[6:]))
	}
	if e.client.Addr().Is6() && !e.toICMPv6() {
		return e, false
	}
	return e, !isTooBig || e.tellsSize()
}

// parseTunnelError6 does the same with an ICMPv6 message, of which the kernel has
// looked at the checksum.
func parseTunnelError6(message []byte) (e tunnelError, ok bool) {
	if len(message) < icmpLen+ipv6Len || message[icmpLen]>>4 != 6 {
		return e, false
	}
	e.kind, e.code = message[0], message[1]
	outer, carried := message[icmpLen:icmpLen+ipv6Len], message[icmpLen+ipv6Len:]
	e.source = netip.AddrFrom16([16]byte(outer[8:24]))
	if !e.split(netip.AddrFrom16([16]byte(outer[24:40])), outer[6], carried) {
		return e, false
	}
	isTooBig := e.kind == icmp6TooBig
	if isTooBig {
		e.mtu = binary.BigEndian.Uint32(message[4:])
	}
	switch {
	case e.kind < icmp6Unreachable || e.kind > icmp6Parameter:
		return e, false
	case e.kind == icmp6Parameter: // it points into the outer header (RFC 2473, section 8.3)
		e.kind, e.code = icmp6Unreachable, 3
	}
	if e.client.Addr().Is4() {
		e.toICMP()
	}
	return e, !isTooBig || e.tellsSize()
}

// split finds the client's packet behind an outer IP header, to an address, which says
// of what protocol its contents are.
func (e *tunnelError) split(to netip.Addr, protocol byte, carried []byte) bool {
	method, port, inner, ok := splitTunnel(protocol, carried)
	if !ok {
		return false
	}
	e.method, e.real, e.packet = method, netip.AddrPortFrom(to, port), inner
	var client, vip netip.Addr
	var ports []byte
	if inner[0]>>4 == 6 {
		e.proto, ports, ok = splitIPv6(inner)
		if !ok {
			return false
		}
		client, vip = netip.AddrFrom16([16]byte(inner[8:24])), netip.AddrFrom16([16]byte(inner[24:40]))
	} else {
		header, rest, ok := splitIPv4(inner)
		if !ok {
			return false
		}
		e.proto, ports = lb.Protocol(header[9]), rest
		client, vip = netip.AddrFrom4([4]byte(header[12:16])), netip.AddrFrom4([4]byte(header[16:20]))
	}
	if len(ports) < 8 || e.proto != lb.TCP && e.proto != lb.UDP {
		return false
	}
	e.client = netip.AddrPortFrom(client, binary.BigEndian.Uint16(ports))
	e.vip = netip.AddrPortFrom(vip, binary.BigEndian.Uint16(ports[2:]))
	return true
}

// tellsSize makes the size of the way that which is left of it for the client's packet,
// and reports whether its sender asks for it.
func (e *tunnelError) tellsSize() bool {
	overhead := uint32(wayOf[e.method].kind.Overhead(e.real.Addr()))
	if e.client.Addr().Is6() { // with less than 1280 it would not know what to do
		e.mtu = max(e.mtu, overhead+smallestMTU6) - overhead
		return true
	}
	if e.mtu > smallestMTU+overhead {
		e.mtu -= overhead
	}
	e.mtu = min(e.mtu, 0xffff)
	return e.packet[6]&0x40 != 0 // DF
}

// toICMPv6 makes what was said of an outer header of IPv4 what ICMPv6 has for it (RFC
// 7915, section 4.2), and reports whether it has something.
func (e *tunnelError) toICMPv6() bool {
	const noRoute, prohibited, badAddress, badPort = 0, 1, 3, 4
	kind, code := e.kind, e.code
	e.kind = icmp6Unreachable
	switch {
	case kind == icmpTimeExceeded:
		e.kind = icmp6TimeExceeded
	case kind == icmpSourceQuench:
		return false
	case code == codeFragmentationNeeded:
		e.kind, e.code = icmp6TooBig, 0
	case code == 2: // the real does not know the tunnel's protocol
		e.code = badAddress
	case code == 3:
		e.code = badPort
	case code == 9 || code == 10 || code == 13 || code == 15:
		e.code = prohibited
	case code == 14:
		return false
	default:
		e.code = noRoute
	}
	return true
}

// toICMP makes what was said of an outer header of IPv6 what ICMP has for it (RFC 7915,
// section 5.2).
func (e *tunnelError) toICMP() {
	const badHost, badPort, prohibited = 1, 3, 10
	kind, code := e.kind, e.code
	e.kind = icmpUnreachable
	switch {
	case kind == icmp6TimeExceeded:
		e.kind = icmpTimeExceeded
	case kind == icmp6TooBig:
		e.code = codeFragmentationNeeded
	case code == 1:
		e.code = prohibited
	case code == 4:
		e.code = badPort
	default:
		e.code = badHost
	}
}

// splitTunnel finds the packet that follows an outer IP header, which says of
// what protocol its contents are. port is where GUE is addressed to.
func splitTunnel(protocol byte, carried []byte) (method bpf.ForwardMethod, port uint16, inner []byte, ok bool) {
	is6 := false
	switch {
	case protocol == protocolIPIP || protocol == protocolIPv6:
		is6, method, inner = protocol == protocolIPv6, bpf.ForwardIpip, carried
	case protocol == protocolUDP && len(carried) >= gueLen && carried[8] == 0 && carried[10] == 0 && carried[11] == 0 &&
		(carried[9] == protocolIPIP || carried[9] == protocolIPv6):
		is6, method, inner = carried[9] == protocolIPv6, bpf.ForwardGue, carried[gueLen:]
		port = binary.BigEndian.Uint16(carried[2:])
	case protocol == protocolGRE && len(carried) >= greLen && carried[0] == 0 && carried[1] == 0:
		kind := binary.BigEndian.Uint16(carried[2:])
		if kind != unix.ETH_P_IP && kind != unix.ETH_P_IPV6 {
			return 0, 0, nil, false
		}
		is6, method, inner = kind == unix.ETH_P_IPV6, bpf.ForwardGre, carried[greLen:]
	}
	ok = len(inner) > 0 && inner[0]>>4 == map[bool]byte{false: 4, true: 6}[is6]
	return method, port, inner, ok
}

// mostExtensions is how many headers may be between IPv6's own and TCP's, as in
// bpf/ipv6.h.
const mostExtensions = 8

// splitIPv6 finds what follows a packet's header of IPv6 and its extensions. ok is false
// if they are not whole, or the packet is a later fragment.
func splitIPv6(packet []byte) (proto lb.Protocol, rest []byte, ok bool) {
	if len(packet) < ipv6Len {
		return 0, nil, false
	}
	const hopByHop, routing, fragment, authentication, options = 0, 43, 44, 51, 60
	next, rest := packet[6], packet[ipv6Len:]
	for range mostExtensions + 1 { // the last finds what follows them
		isExtension := next == hopByHop || next == routing || next == fragment || next == authentication || next == options
		switch {
		case !isExtension:
			return lb.Protocol(next), rest, true
		case len(rest) < 8:
			return 0, nil, false
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case authentication:
			length = (int(rest[1]) + 2) * 4
		case fragment:
			length = 8
		}
		isLaterFragment := next == fragment && binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0
		if length > len(rest) || isLaterFragment {
			return 0, nil, false
		}
		next, rest = rest[0], rest[length:]
	}
	return 0, nil, false
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
// (icmp_send, icmpv6_send). Of IPv4 the kernel fills in the identification, and the
// header's checksum.
func (e tunnelError) answer() []byte {
	if e.client.Addr().Is6() {
		return e.answer6()
	}
	quote := e.packet[:min(len(e.packet), quoteMost)]
	b := make([]byte, ipv4Len+icmpLen, ipv4Len+icmpLen+len(quote))
	b[0], b[1], b[8], b[9] = 0x45, e.packet[1]&0x1e|0xc0, 64, byte(lb.ICMP)
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	vip, client := e.vip.Addr().As4(), e.client.Addr().As4()
	copy(b[12:], vip[:])
	copy(b[16:], client[:])
	b[ipv4Len], b[ipv4Len+1] = e.kind, e.code
	binary.BigEndian.PutUint16(b[ipv4Len+6:], uint16(e.mtu))
	b = append(b, quote...)
	binary.BigEndian.PutUint16(b[ipv4Len+2:], checksum(b[ipv4Len:]))
	return b
}

// answer6 is [tunnelError.answer] to a client of IPv6.
func (e tunnelError) answer6() []byte {
	quote := e.packet[:min(len(e.packet), quoteMost6)]
	b := outerHeader6(e.vip.Addr(), e.client.Addr())
	b[0], b[6], b[7] = 0x60, protocolICMPv6, 64
	size := uint16(icmpLen + len(quote))
	binary.BigEndian.PutUint16(b[4:], size)
	b = append(b, e.kind, e.code, 0, 0)
	b = append(binary.BigEndian.AppendUint32(b, e.mtu), quote...)
	pseudo := slices.Concat(b[8:ipv6Len], []byte{0, 0, byte(size >> 8), byte(size), 0, 0, 0, protocolICMPv6}, b[ipv6Len:])
	binary.BigEndian.PutUint16(b[ipv6Len+2:], checksum(pseudo))
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
		return r.conf.Addr == e.real.Addr() && methodOf(r.conf) == e.method && r.conf.Encap.Port == e.real.Port() &&
			comesFrom(&b.dp.Tunnels[r.slot], e.source)
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
	if !ok {
		return false
	}
	t := &b.dp.Tunnels[v.Real()]
	return b.dp.Reals[v.Real()].Method() == e.method && b.addressOf(v.Real()) == e.real.Addr() && comesFrom(t, e.source) &&
		(e.method != bpf.ForwardGue || bpf.PortWord(t.Port) == e.real.Port())
}

// comesFrom reports whether outer headers of a tunnel may come from an address.
func comesFrom(t *bpf.Tunnel, from netip.Addr) bool {
	source := bpf.AddressOf(from)
	source.Word[3] &^= t.Spread
	return source == t.Source
}

// findFlow finds a client's live flow to a VIP's port.
func (b *Backend) findFlow(proto lb.Protocol, client, vip netip.AddrPort) (bpf.FlowValue, bool) {
	number, ok := b.numbers.of[endpoint{vip.Addr(), proto}]
	if !ok {
		return 0, false
	}
	t, s, now := b.flowTables()[0], b.dp.Settings, b.now()
	var want bpf.FlowKey
	var hash uint64
	if client.Addr().Is4() {
		want, hash = bpf.FlowKeyOf(client.Addr(), client.Port(), number), s.FlowHash(client, vip)
	} else {
		t, want = b.flowTables()[1], bpf.FlowKeyOfName(s.NameOf(client.Addr()), client.Port(), number)
		hash = s.FlowHash6(want, vip.Port())
	}
	for _, set := range bpf.TwoSets(hash, uint32(t.sets())) {
		for way := range bpf.Ways {
			e, owner, value, isLive := t.read(int(set), way)
			v := bpf.FlowValue(value)
			isOfClient := client.Addr().Is4() || owner == client.Addr()
			if isLive && isOfClient && bpf.FlowKey(e.key) == want && v.Port() == vip.Port() && !b.expired(v, now) {
				return v, true
			}
		}
	}
	return 0, false
}
