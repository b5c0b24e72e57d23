package bfd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The ports that control packets are sent to (RFC 5881 section 4, RFC 5883
// section 5), and those that they are sent from.
const (
	portSingleHop   = 3784
	portMultihop    = 4784
	firstSourcePort = 49152
	sourcePorts     = 1<<16 - firstSourcePort
	sourceAttempts  = 16 // ports that may be taken, one after the other
)

// tos is the class that control packets travel in: internetwork control.
const tos = 0xc0

// datagram is a control packet as it came.
type datagram struct {
	from    netip.Addr // with its zone if it is a link-local one
	ttl     uint8
	payload []byte // valid until the next one is read
}

// receiver is a port that control packets of one family are sent to. It is
// bound without SO_REUSEADDR: of two BFD daemons on a host each would get some
// of the other's packets.
type receiver struct {
	conn  *net.UDPConn
	isSix bool
}

func openReceiver(isSix bool, port uint16) (*receiver, error) {
	network, at := "udp4", netip.IPv4Unspecified()
	if isSix {
		network, at = "udp6", netip.IPv6Unspecified()
	}
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return setOptions(c, receiverOptions(isSix))
	}}
	c, err := listen.ListenPacket(context.Background(), network, netip.AddrPortFrom(at, port).String())
	if err != nil {
		return nil, fmt.Errorf("BFD port: %w (another BFD daemon of this host has it, perhaps)", err)
	}
	return &receiver{conn: c.(*net.UDPConn), isSix: isSix}, nil
}

type option struct{ level, name, value int }

func receiverOptions(isSix bool) []option {
	if isSix {
		return []option{{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1}}
	}
	return []option{{unix.IPPROTO_IP, unix.IP_RECVTTL, 1}}
}

func senderOptions(isSix bool, ttl uint8) []option {
	if isSix {
		return []option{{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, int(ttl)}, {unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos}}
	}
	return []option{{unix.IPPROTO_IP, unix.IP_TTL, int(ttl)}, {unix.IPPROTO_IP, unix.IP_TOS, tos}}
}

func setOptions(c syscall.RawConn, options []option) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		for _, o := range options {
			if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
				failed = fmt.Errorf("option %d: %w", o.name, err)
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// read waits for a datagram. What comes without a TTL has TTL 0, which no
// session accepts.
func (r *receiver) read(b []byte) (datagram, error) {
	var control [64]byte
	n, controlLen, _, from, err := r.conn.ReadMsgUDPAddrPort(b, control[:])
	if err != nil {
		return datagram{}, err
	}
	return datagram{from: from.Addr().Unmap(), ttl: ttlOf(control[:controlLen]), payload: b[:n]}, nil
}

// ttlOf finds the TTL or the hop limit in control messages.
func ttlOf(control []byte) uint8 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		isTTL := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT
		if isTTL && len(m.Data) >= 4 {
			return uint8(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

func (r *receiver) close() { r.conn.Close() }

// sender sends the packets of one session, from one port for as long as it can
// (RFC 5881 section 4).
type sender struct {
	from netip.Addr // invalid: as the routes say
	to   netip.AddrPort
	ttl  uint8

	mu       sync.Mutex
	conn     net.Conn
	isClosed bool
}

// send sends a packet. After an error the next one goes out of a new socket:
// the source address may be there by then, or another one be the routes'.
func (s *sender) send(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		return net.ErrClosed
	}
	if s.conn == nil {
		c, err := s.open()
		if err != nil {
			return err
		}
		s.conn = c
	}
	_, err := s.conn.Write(b)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil // of an earlier packet: the neighbour is there and does not speak BFD yet
	}
	if err != nil {
		s.drop()
	}
	return err
}

// drop has the next packet go out of a new socket.
func (s *sender) drop() {
	s.conn.Close()
	s.conn = nil
}

// followRoutes has the next packet come from where the routes would have it by now: a
// socket keeps the source address that it has begun with, also one of IPv6 that the
// host has lost.
func (s *sender) followRoutes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.from.IsValid() {
		return
	}
	c, err := net.Dial("udp", s.to.String())
	if err != nil {
		return
	}
	defer c.Close()
	address := func(c net.Conn) netip.Addr { return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr() }
	if address(c) != address(s.conn) {
		s.drop()
	}
}

func (s *sender) open() (net.Conn, error) {
	from := s.from
	if !from.IsValid() {
		from = netip.IPv4Unspecified()
		if s.to.Addr().Is6() {
			from = netip.IPv6Unspecified()
		}
	}
	var err error
	for range sourceAttempts {
		port := uint16(firstSourcePort + rand.IntN(sourcePorts))
		dialer := net.Dialer{
			LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, port)),
			Control: func(_, _ string, c syscall.RawConn) error {
				return setOptions(c, senderOptions(s.to.Addr().Is6(), s.ttl))
			},
		}
		var c net.Conn
		if c, err = dialer.Dial("udp", s.to.String()); !errors.Is(err, unix.EADDRINUSE) {
			return c, err
		}
	}
	return nil, err
}

func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isClosed = true
	if s.conn != nil {
		s.conn.Close()
	}
}
