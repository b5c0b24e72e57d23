package testenv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

// maxCaptured is how many bytes of frames a [Capture] keeps.
const maxCaptured = 128 << 20

// Frame is one captured frame.
type Frame struct {
	At   time.Time
	Out  bool   // the host sent it
	Data []byte // from the destination MAC on, VLAN tags included
}

// Packet decodes the frame.
func (f Frame) Packet() gopacket.Packet {
	return gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
}

// Capture keeps the frames that pass one interface in both directions, until
// it is closed. Like every packet socket it does not see what XDP sends or
// takes away: capture at the other end of the cable, the switch's port.
type Capture struct {
	file *os.File
	done chan struct{}

	mu     sync.Mutex
	frames []Frame
	bytes  int
	lost   bool
	err    error
}

// Capture begins to capture on an interface of the host. Everything that
// passes after it returned is seen. It is closed with the host.
func (h *Host) Capture(nic string) (*Capture, error) {
	c := &Capture{done: make(chan struct{})}
	err := h.Do(func() error {
		var err error
		c.file, err = packetSocket(nic, unix.ETH_P_ALL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %s %s: %w", h.Name, nic, err)
	}
	h.mu.Lock()
	h.captures = append(h.captures, c)
	h.mu.Unlock()
	go c.run()
	return c, nil
}

// Send puts raw frames on an interface of the host, as they are.
func (h *Host) Send(nic string, frames ...[]byte) error {
	return h.Do(func() error {
		f, err := packetSocket(nic, 0) // 0: do not receive
		if err != nil {
			return fmt.Errorf("send on %s %s: %w", h.Name, nic, err)
		}
		defer f.Close()
		for _, frame := range frames {
			if _, err := f.Write(frame); err != nil {
				return fmt.Errorf("send on %s %s: %w", h.Name, nic, err)
			}
		}
		return nil
	})
}

// packetSocket opens a raw packet socket in the thread's namespace.
func packetSocket(nic string, proto uint16) (*os.File, error) {
	ifi, err := net.InterfaceByName(nic)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// Best effort: a small buffer only loses frames sooner.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: ifi.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "capture on "+nic), nil
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (c *Capture) run() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		c.fail(err)
		return
	}
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return rerr != unix.EAGAIN
		})
		switch {
		case err != nil: // closed
			return
		case rerr == unix.ENETDOWN || rerr == unix.EINTR: // the interface went down and may come back
			continue
		case rerr != nil:
			c.fail(rerr)
			return
		}
		ll, _ := from.(*unix.SockaddrLinklayer)
		c.add(Frame{
			At:   time.Now(),
			Out:  ll != nil && ll.Pkttype == unix.PACKET_OUTGOING,
			Data: withTag(buf[:n], oob[:oobn]),
		})
	}
}

// withTag copies a frame and puts the VLAN tag back that the kernel had taken
// out of it (struct tpacket_auxdata).
func withTag(frame, oob []byte) []byte {
	const macs = 12
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(frame) < macs {
		return append([]byte(nil), frame...)
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			break
		}
		tci, tpid := binary.NativeEndian.Uint16(m.Data[16:]), uint16(unix.ETH_P_8021Q)
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[18:])
		}
		tagged := append(make([]byte, 0, len(frame)+4), frame[:macs]...)
		tagged = binary.BigEndian.AppendUint16(tagged, tpid)
		tagged = binary.BigEndian.AppendUint16(tagged, tci)
		return append(tagged, frame[macs:]...)
	}
	return append([]byte(nil), frame...)
}

func (c *Capture) add(f Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes+len(f.Data) > maxCaptured {
		c.lost = true
		return
	}
	c.bytes += len(f.Data)
	c.frames = append(c.frames, f)
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Frames returns what was captured so far, and an error if the capture is not
// complete.
func (c *Capture) Frames() ([]Frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames := c.frames[:len(c.frames):len(c.frames)]
	if c.lost {
		return frames, fmt.Errorf("capture: frames beyond %d MiB were not kept", maxCaptured>>20)
	}
	return frames, c.err
}

// Select returns the captured frames that keep accepts.
func (c *Capture) Select(keep func(Frame) bool) ([]Frame, error) {
	frames, err := c.Frames()
	var kept []Frame
	for _, f := range frames {
		if keep(f) {
			kept = append(kept, f)
		}
	}
	return kept, err
}

// Wait waits for a frame that want accepts, also among those already
// captured.
func (c *Capture) Wait(ctx context.Context, want func(Frame) bool) (Frame, error) {
	var found Frame
	seen := 0
	err := Poll(ctx, func() error {
		frames, err := c.Frames()
		for _, f := range frames[seen:] {
			if want(f) {
				found = f
				return nil
			}
		}
		seen = len(frames)
		if err != nil {
			return Final(err)
		}
		return fmt.Errorf("capture: no such frame among %d", seen)
	})
	return found, err
}

// WritePcap writes what was captured as a pcap file.
func (c *Capture) WritePcap(w io.Writer) error {
	frames, err := c.Frames()
	if err != nil {
		return err
	}
	p := pcapgo.NewWriterNanos(w)
	if err := p.WriteFileHeader(1<<16, layers.LinkTypeEthernet); err != nil {
		return err
	}
	for _, f := range frames {
		ci := gopacket.CaptureInfo{Timestamp: f.At, CaptureLength: len(f.Data), Length: len(f.Data)}
		if err := p.WritePacket(ci, f.Data); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the capture. What was captured stays readable.
func (c *Capture) Close() {
	c.file.Close()
	<-c.done
}
