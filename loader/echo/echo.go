package echo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Result is what a test has shown.
type Result int

// The results.
const (
	Silent Result = iota // nobody has answered: nothing is proven
	Sent                 // what XDP sends leaves the host
	Lost                 // it does not
)

// rounds is how often the neighbours are asked, and patience how long each time.
// A single answer may be lost on its way, a few are not.
const (
	rounds   = 3
	patience = 300 * time.Millisecond
)

// Sequence numbers: of this host's echo, and of the program's.
const (
	first  = 1
	second = 2
)

// Test is the loaded program.
type Test struct {
	objects rawObjects
	id      uint16
}

// New loads the program.
func New() (*Test, error) {
	spec, err := loadRaw()
	if err != nil {
		return nil, err
	}
	t := &Test{id: uint16(rand.Uint32())}
	var wire [2]byte
	binary.BigEndian.PutUint16(wire[:], t.id)
	if err := spec.Variables["echo_id"].Set(wire); err != nil {
		return nil, fmt.Errorf("id of the echo: %w", err)
	}
	if err := spec.LoadAndAssign(&t.objects, nil); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return t, nil
}

// Program is to be attached to the interface that is asked about.
func (t *Test) Program() *ebpf.Program { return t.objects.Bounce }

// Close lets go of the program.
func (t *Test) Close() error { return t.objects.Close() }

// Run asks neighbours over an interface that the program is attached to, until
// one of them has answered twice.
func (t *Test) Run(ctx context.Context, iface string, neighbors []netip.Addr) (Result, error) {
	conn, err := listen(ctx, iface)
	if err != nil {
		return Silent, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for range rounds {
		for _, n := range neighbors {
			_, _ = conn.WriteTo(t.message(), &net.IPAddr{IP: n.AsSlice()}) // whom no way leads to does not answer
		}
		isSent, err := t.hears(conn)
		if ctx.Err() != nil {
			return Silent, ctx.Err()
		}
		if err != nil {
			return Silent, err
		}
		if isSent {
			return Sent, nil
		}
	}
	var bounced uint64
	if err := t.objects.Bounced.Get(&bounced); err != nil {
		return Silent, err
	}
	if bounced < rounds {
		return Silent, nil
	}
	return Lost, nil
}

// hears waits for the answer to the program's echo.
func (t *Test) hears(conn net.PacketConn) (bool, error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	message := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(message)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("answers to echoes: %w", err)
		case t.isAnswer(message[:n]):
			return true, nil
		}
	}
}

// isAnswer reports whether an ICMP message answers the program's echo.
func (t *Test) isAnswer(m []byte) bool {
	return len(m) >= 8 && m[0] == 0 && binary.BigEndian.Uint16(m[4:]) == t.id && binary.BigEndian.Uint16(m[6:]) == second
}

// message is this host's echo.
func (t *Test) message() []byte {
	m := []byte{8, 0, 0, 0, 0, 0, 0, first, 'l', 'v', 'x', '?'}
	binary.BigEndian.PutUint16(m[4:], t.id)
	sum := uint32(0)
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	return m
}

// listen opens a socket for ICMP over one interface.
func listen(ctx context.Context, iface string) (net.PacketConn, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var bound error
		err := raw.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), iface) })
		return errors.Join(err, bound)
	}}
	conn, err := c.ListenPacket(ctx, "ip4:icmp", "")
	if err != nil {
		return nil, fmt.Errorf("socket for ICMP on %s: %w", iface, err)
	}
	return conn, nil
}
