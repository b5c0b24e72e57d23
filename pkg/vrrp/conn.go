package vrrp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// tos is the class that advertisements travel in: internetwork control, as
// keepalived sends them.
const tos = 0xc0

// conn is a raw socket for VRRP on one interface, for one family. It never
// blocks.
type conn struct {
	fd    int
	index int
	six   bool
}

// datagram is a received VRRP message, valid until the next receive.
type datagram struct {
	src, dst netip.Addr
	ttl      int
	payload  []byte
}

type option struct{ level, name, value int }

// openConnOn opens a socket on an interface and joins the VRRP group there.
func openConnOn(name string, index int, six bool) (c *conn, err error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, Protocol)
	if err != nil {
		return nil, fmt.Errorf("raw socket for VRRP: %w (needs CAP_NET_RAW)", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.BindToDevice(fd, name); err != nil {
		return nil, fmt.Errorf("VRRP socket on %s: %w", name, err)
	}
	options := options4
	if six {
		options = options6
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return nil, fmt.Errorf("VRRP socket on %s, option %d: %w", name, o.name, err)
		}
	}
	if err := joinGroup(fd, index, six); err != nil {
		return nil, fmt.Errorf("VRRP group on %s: %w", name, err)
	}
	return &conn{fd: fd, index: index, six: six}, nil
}

// No path MTU discovery: keepalived sends without "don't fragment".
var options4 = []option{
	{unix.IPPROTO_IP, unix.IP_TTL, 255},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0},
	{unix.IPPROTO_IP, unix.IP_TOS, tos},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT},
}

var options6 = []option{
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
}

func joinGroup(fd, index int, six bool) error {
	if six {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index); err != nil {
			return err
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: Group6.As16(), Interface: uint32(index)})
	}
	mreq := &unix.IPMreqn{Multiaddr: Group4.As4(), Ifindex: int32(index)}
	if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq); err != nil {
		return err
	}
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)
}

func (c *conn) close() { unix.Close(c.fd) }

// sourceControl is the control message that makes src the source address.
func (c *conn) sourceControl(src netip.Addr) []byte {
	if c.six {
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: src.As16(), Ifindex: uint32(c.index)})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: src.As4(), Ifindex: int32(c.index)})
}

// send sends one message from src to dst.
func (c *conn) send(src, dst netip.Addr, b []byte) error {
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: dst.As16(), ZoneId: uint32(c.index)}
	if !c.six {
		to = &unix.SockaddrInet4{Addr: dst.As4()}
	}
	_, err := unix.SendmsgN(c.fd, b, c.sourceControl(src), to, 0)
	return err
}

// receive reads one message into buf; ok is false when there is none. What
// is no IP datagram with a VRRP message in one piece comes with an empty
// payload.
func (c *conn) receive(buf []byte) (d datagram, ok bool) {
	var oob [128]byte
	n, oobn, _, from, err := unix.Recvmsg(c.fd, buf, oob[:], 0)
	if err != nil {
		// EINTR, or an ICMP error about something sent: look again.
		return datagram{}, !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.EBADF)
	}
	if !c.six {
		return parseIPv4(buf[:n]), true
	}
	d.payload = buf[:n]
	if sa, ok := from.(*unix.SockaddrInet6); ok {
		d.src = netip.AddrFrom16(sa.Addr)
	}
	msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range msgs {
		switch {
		case m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4:
			d.ttl = int(binary.NativeEndian.Uint32(m.Data))
		case m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			d.dst = netip.AddrFrom16([16]byte(m.Data))
		}
	}
	return d, true
}

// parseIPv4 takes apart what a raw IPv4 socket delivers: the header is in
// front, and Ethernet's padding may follow.
func parseIPv4(b []byte) (d datagram) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return d
	}
	head, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || total < head || total > len(b) {
		return d
	}
	return datagram{
		src:     netip.AddrFrom4([4]byte(b[12:])),
		dst:     netip.AddrFrom4([4]byte(b[16:])),
		ttl:     int(b[8]),
		payload: b[head:total],
	}
}

func isOverrun(err error) bool { return errors.Is(err, unix.ENOBUFS) }
