package failover

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv"
)

// Frame is a frame that arrived, with the kernel's time of arrival: a busy
// observer must not count as a late sender.
type Frame struct {
	At   time.Time
	Data []byte // from the destination MAC on
}

// Watch asks who has an address, every ten milliseconds, and keeps what a
// host without services hears of the routers: ARP, neighbour advertisements and
// those of VRRP.
type Watch struct {
	addr netip.Addr
	fd   int
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	frames []Frame
}

const askEvery = 10 * time.Millisecond

// StartWatch begins to watch from a host.
func StartWatch(h *testenv.Host, addr netip.Addr) (*Watch, error) {
	w := &Watch{addr: addr, stop: make(chan struct{})}
	var ifi *net.Interface
	err := h.Do(func() (err error) {
		if ifi, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
			return err
		}
		return unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	w.wg.Go(w.receive)
	question := arpRequest(ifi.HardwareAddr, Addr(h.Name), addr)
	if addr.Is6() {
		question = solicitation(ifi.HardwareAddr, addr6(h.Name), addr)
	}
	w.wg.Go(func() { w.ask(ifi, question) })
	return w, nil
}

// Close ends the watch.
func (w *Watch) Close() error {
	close(w.stop)
	w.wg.Wait()
	return unix.Close(w.fd)
}

// arpRequest asks by ARP who has an address.
func arpRequest(mac net.HardwareAddr, self, addr netip.Addr) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, mac...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, mac...), self.AsSlice()...)
	return append(append(f, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
}

// solicitation asks by Neighbour Discovery who has an address (RFC 4861).
func solicitation(mac net.HardwareAddr, self, addr netip.Addr) []byte {
	const length = 32 // of the ICMPv6 message, with the option of the sender's MAC
	from, of := self.As16(), addr.As16()
	group := append([]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}, of[13:]...)
	m := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, of[:]...)
	m = append(append(m, 1, 1), mac...)
	sum := uint32(length + unix.IPPROTO_ICMPV6)
	for _, part := range [][]byte{from[:], group, m} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	f := append([]byte{0x33, 0x33, 0xff, of[13], of[14], of[15]}, mac...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, length, unix.IPPROTO_ICMPV6, 255)
	return append(append(append(f, from[:]...), group...), m...)
}

func (w *Watch) ask(ifi *net.Interface, question []byte) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			_ = unix.Sendto(w.fd, question, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: ifi.Index})
		}
	}
}

func (w *Watch) receive() {
	b, oob := make([]byte, 9000), make([]byte, 64)
	for {
		n, oobn, _, from, err := unix.Recvmsg(w.fd, b, oob, 0)
		select {
		case <-w.stop:
			return
		default:
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 34 {
			continue
		}
		if f := b[:n]; isARP(f) || isAdvert(f) || isNeighbourAdvert(f) {
			w.mu.Lock()
			w.frames = append(w.frames, Frame{stamp(oob[:oobn]), append([]byte(nil), b[:n]...)})
			w.mu.Unlock()
		}
	}
}

const vrrpProtocol = 112

func isARP(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 }

// isAdvert reports whether a frame is an advertisement of VRRP.
func isAdvert(f []byte) bool {
	return len(f) >= 34 && f[12] == 8 && f[13] == 0 && f[23] == vrrpProtocol ||
		len(f) >= 54 && f[12] == 0x86 && f[13] == 0xdd && f[20] == vrrpProtocol
}

func isNeighbourAdvert(f []byte) bool {
	return len(f) >= 78 && f[12] == 0x86 && f[13] == 0xdd && f[20] == unix.IPPROTO_ICMPV6 && f[54] == 136
}

// macOf is the MAC of who has sent a frame.
func macOf(f Frame) [6]byte { return [6]byte(f.Data[6:12]) }

func stamp(oob []byte) time.Time {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// Adverts are the advertisements of a host, by its MAC, since a moment.
func (w *Watch) Adverts(mac net.HardwareAddr, begin time.Time) []Frame {
	return w.pick(begin, func(b []byte) bool { return isAdvert(b) && [6]byte(b[6:12]) == [6]byte(mac) })
}

// Answers are the answers to the question for the address since a moment: ARP
// replies, or solicited neighbour advertisements.
func (w *Watch) Answers(begin time.Time) []Frame {
	const reply, isSolicited = 2, 0x40
	return w.pick(begin, func(b []byte) bool {
		if isARP(b) {
			return b[21] == reply && w.addr.Is4() && netip.AddrFrom4([4]byte(b[28:32])) == w.addr
		}
		return isNeighbourAdvert(b) && b[58]&isSolicited != 0 && netip.AddrFrom16([16]byte(b[62:78])) == w.addr
	})
}

func (w *Watch) pick(begin time.Time, keep func([]byte) bool) (fs []Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.frames {
		if f.At.After(begin) && keep(f.Data) {
			fs = append(fs, f)
		}
	}
	return fs
}

// Both is how long, since a moment, two hosts answered for the address: the
// questions that got two answers, times their interval.
func (w *Watch) Both(begin time.Time) time.Duration { return both(w.Answers(begin)) }

func both(answers []Frame) (d time.Duration) {
	macs := map[[6]byte]bool{}
	var asked time.Time
	for _, f := range answers {
		if f.At.Sub(asked) > askEvery/2 { // the answers to one question come together
			asked = f.At
			clear(macs)
		}
		mac := macOf(f)
		if len(macs) == 1 && !macs[mac] {
			d += askEvery
		}
		macs[mac] = true
	}
	return d
}
