package testenv

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects from the namespace to a literal address. Any number of calls may
// wait for an answer at once: a call that waits has no thread.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" {
		return h.dialDatagram(ctx, network, address)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	conn, err := h.connect(ctx, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return conn, nil
}

// dialDatagram makes a socket that sends to one address, which blocks nobody.
func (h *Host) dialDatagram(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.onThread(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// connect begins a TCP connection on the host's own thread, and waits for its end
// on none. [net.Dialer] would wait on the thread that stands in the namespace.
func (h *Host) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var socket *os.File
	err := h.onThread(func() (err error) {
		socket, err = h.beginConnection(to)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer socket.Close() // the connection has a descriptor of its own
	unwatch := context.AfterFunc(ctx, func() {
		_ = socket.SetWriteDeadline(time.Unix(1, 0)) // a socket that is closed waits for nothing
	})
	defer unwatch()
	if err := awaitConnection(socket); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return net.FileConn(socket)
}

// The ports that connections come from (net.ipv4.ip_local_port_range).
const (
	firstPort = 32768
	ports     = 28232
)

// beginConnection sends the SYN, from each of the ports in turn. The kernel's choice may
// be a port of a minute ago: of a connection that the real server has closed nothing is
// left here, but a director has it for two minutes, and a SYN of it goes to the same
// real (is_new_conn_expected in net/netfilter/ipvs/ip_vs_core.c).
func (h *Host) beginConnection(to netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := h.bindNext(fd, to.Addr().Is4()); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Connect(fd, socketAddress(to)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), "tcp "+to.String()), nil
}

// bindNext binds a socket to the next port that is free.
func (h *Host) bindNext(fd int, is4 bool) (err error) {
	from := netip.IPv6Unspecified()
	if is4 {
		from = netip.IPv4Unspecified()
	}
	for range ports {
		port := firstPort + (h.dialled.Add(1)-1)%ports
		if err = unix.Bind(fd, socketAddress(netip.AddrPortFrom(from, uint16(port)))); err != unix.EADDRINUSE {
			return err
		}
	}
	return err
}

func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// awaitConnection waits until the connection is established or has failed.
func awaitConnection(socket *os.File) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) (isDone bool) {
		if n, err := pollWritable(fd); err != nil {
			failure = os.NewSyscallError("poll", err)
			return true
		} else if n == 0 {
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		failure = os.NewSyscallError("connect", err)
		return true
	})
	if err != nil {
		return err
	}
	return failure
}

// pollWritable says at once whether a socket is writable: 1, or 0. A signal, which the
// Go runtime sends to its own threads, interrupts even a poll that does not wait
// (do_poll in fs/select.c); nothing is known then, and the socket is asked again.
func pollWritable(fd uintptr) (int, error) {
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(ready, 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}
