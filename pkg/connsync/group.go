package connsync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// open makes a socket that hears the group on the interface and sends to it.
func (w *Wire) open(ctx context.Context) (*net.UDPConn, *net.UDPAddr, error) {
	iface, err := net.InterfaceByName(w.o.Interface)
	if err != nil {
		return nil, nil, fmt.Errorf("interface %s of connection sync: %w", w.o.Interface, err)
	}
	if iface.Flags&net.FlagUp == 0 { // a socket is opened all the same, and sends nothing
		return nil, nil, fmt.Errorf("interface %s of connection sync is down", w.o.Interface)
	}
	group := net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.o.Group, w.o.Port))
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, w.o.Interface),
			)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wireBuffer)
		}); e != nil {
			return e
		}
		return err
	}}
	c, err := lc.ListenPacket(ctx, "udp4", group.String())
	if err != nil {
		return nil, nil, fmt.Errorf("connection sync on %s: %w", group, err)
	}
	conn := c.(*net.UDPConn)
	p := ipv4.NewPacketConn(conn)
	err = errors.Join(p.JoinGroup(iface, group), p.SetMulticastInterface(iface),
		p.SetMulticastTTL(int(w.o.TTL)), p.SetMulticastLoopback(false))
	if err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("connection sync on %s: %w", w.o.Interface, err)
	}
	return conn, group, nil
}
