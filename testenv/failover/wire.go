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
// host without services hears of the routers: ARP and advertisements.
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
	w.wg.Go(func() { w.ask(ifi, Addr(h.Name)) })
	return w, nil
}

// Close ends the watch.
func (w *Watch) Close() error {
	close(w.stop)
	w.wg.Wait()
	return unix.Close(w.fd)
}

func (w *Watch) ask(ifi *net.Interface, self netip.Addr) {
	request := append([]byte{255, 255, 255, 255, 255, 255}, ifi.HardwareAddr...)
	request = append(request, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	request = append(append(request, ifi.HardwareAddr...), self.AsSlice()...)
	request = append(append(request, 0, 0, 0, 0, 0, 0), w.addr.AsSlice()...)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			_ = unix.Sendto(w.fd, request, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: ifi.Index})
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
		if ll.Protocol == unix.ETH_P_ARP>>8|unix.ETH_P_ARP&0xff<<8 || b[23] == vrrpProtocol {
			w.mu.Lock()
			w.frames = append(w.frames, Frame{stamp(oob[:oobn]), append([]byte(nil), b[:n]...)})
			w.mu.Unlock()
		}
	}
}

const vrrpProtocol = 112

func stamp(oob []byte) time.Time {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// Adverts are the advertisements of a host since a moment.
func (w *Watch) Adverts(host string, begin time.Time) []Frame {
	return w.pick(begin, func(b []byte) bool {
		return b[12] == 8 && b[13] == 0 && b[23] == vrrpProtocol && netip.AddrFrom4([4]byte(b[26:30])) == Addr(host)
	})
}

// Answers are the ARP replies for the address since a moment.
func (w *Watch) Answers(begin time.Time) []Frame {
	const reply = 2
	return w.pick(begin, func(b []byte) bool {
		return len(b) >= 42 && b[12] == 8 && b[13] == 6 && b[21] == reply && netip.AddrFrom4([4]byte(b[28:32])) == w.addr
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
		mac := [6]byte(f.Data[22:28])
		if len(macs) == 1 && !macs[mac] {
			d += askEvery
		}
		macs[mac] = true
	}
	return d
}
