package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dialer opens the sockets of one checker. Package net's dialer would do,
// but costs about twice the system calls and garbage per probe.
type dialer struct {
	source netip.Addr                       // zero = choose's choice
	choose func(real netip.Addr) netip.Addr // nil = the kernel's choice
	mark   uint32                           // leads through a [Path]; 0 = none

	// segment is the longest TCP segment; 0 = what the interface takes.
	segment int
}

// conn is a connected socket under the runtime's poller. It closes with a
// reset if it is TCP: thousands of probes a second would otherwise leave a
// TIME_WAIT each and run out of local ports, and a body of a gigabyte ends
// there and then.
type conn struct {
	*os.File
	stop func() bool // unbinds the socket from the context
}

// dial connects a socket of the given type (SOCK_STREAM, SOCK_DGRAM) and
// protocol. I/O on it ends with os.ErrDeadlineExceeded once ctx does.
func (d dialer) dial(ctx context.Context, typ, proto int, to netip.AddrPort) (conn, error) {
	if d.choose != nil && !d.source.IsValid() {
		d.source = d.choose(to.Addr())
	}
	fd, err := d.openSocket(typ, proto, to.Addr().Is6())
	if err != nil {
		return conn{}, err
	}
	sa := sockaddrOf(to)
	err = unix.Connect(fd, sa)
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return conn{}, err
	}
	c := conn{File: os.NewFile(uintptr(fd), "probe")}
	c.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	if err == unix.EINPROGRESS {
		if err := c.waitConnected(sa); err != nil {
			c.Close()
			return conn{}, err
		}
	}
	return c, nil
}

// openSocket makes a non-blocking socket with the dialer's mark and source.
func (d dialer) openSocket(typ, proto int, six bool) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, err
	}
	if err := d.setOptions(fd, typ, six); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (d dialer) setOptions(fd, typ int, six bool) error {
	if typ == unix.SOCK_STREAM {
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
	}
	if d.segment != 0 && typ == unix.SOCK_STREAM {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, d.segment); err != nil {
			return err
		}
	}
	if d.mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(d.mark)); err != nil {
			return err
		}
	}
	switch {
	case d.mark == 0 && !d.source.IsValid():
		return nil
	case d.mark == 0 && typ == unix.SOCK_STREAM:
		// Let connect choose a port that is free towards this real only.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
	}
	// With a mark, bind itself chooses a port that no other socket has:
	// through one VIP, replies of several reals differ by nothing else.
	source := d.source
	if !source.IsValid() {
		source = netip.IPv4Unspecified()
		if six {
			source = netip.IPv6Unspecified()
		}
	}
	return unix.Bind(fd, sockaddrOf(netip.AddrPortFrom(source, 0)))
}

// waitConnected waits for the end of a handshake. Only asking connect
// again shows the end: the poller's wake-up may have come and gone before the wait began.
func (c conn) waitConnected(to unix.Sockaddr) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Write(func(fd uintptr) bool {
		result = unix.Connect(int(fd), to)
		return result != unix.EALREADY && result != unix.EINPROGRESS
	}); err != nil {
		return err
	}
	return result
}

// readDatagram reads one datagram; an empty one is no end of file.
func (c conn) readDatagram(b []byte) (int, error) {
	n, err := c.Read(b)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Close ends the connection.
func (c conn) Close() error {
	c.stop()
	return c.File.Close()
}

// LocalAddr and RemoteAddr make conn a net.Conn for TLS, which does not look
// at them.
func (c conn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (c conn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneIndex(a.Addr())}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// zoneIndex finds the interface of a link-local address.
func zoneIndex(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	iface, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0
	}
	return uint32(iface.Index)
}
