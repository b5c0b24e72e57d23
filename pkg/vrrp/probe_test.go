package vrrp_test

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv/pauses"
)

// probe sends an ICMP echo to an address every 5 ms and notes which are
// answered.
type probe struct {
	t      testing.TB
	pauses *pauses.Watch
	fd     int
	stop   chan struct{}
	wg     sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time
	answered []time.Time // zero: not
}

const probeEvery = 5 * time.Millisecond

func (l *lab) probe(host string, addr netip.Addr) *probe {
	l.t.Helper()
	p := &probe{t: l.t, pauses: pauses.Start(l.t), stop: make(chan struct{})}
	l.inside(host, func() (err error) {
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err == nil {
			err = unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
		return err
	})
	p.wg.Go(func() { p.send(addr) })
	p.wg.Go(p.receive)
	l.t.Cleanup(p.close)
	return p
}

func (p *probe) send(addr netip.Addr) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	to := &unix.SockaddrInet4{Addr: addr.As4()}
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		seq := len(p.sent)
		p.sent, p.answered = append(p.sent, time.Now()), append(p.answered, time.Time{})
		p.mu.Unlock()
		_ = unix.Sendto(p.fd, echo(uint32(seq)), unix.MSG_DONTWAIT, to)
	}
}

// echo is an echo request; the sequence number is in the data, where it
// does not wrap.
func echo(seq uint32) []byte {
	b := []byte{8, 0, 0, 0, 0x4c, 0x56, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[8:], seq)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return b
}

func (p *probe) receive() {
	b := make([]byte, 1500)
	for {
		n, _, err := unix.Recvfrom(p.fd, b, 0)
		select {
		case <-p.stop:
			return
		default:
		}
		if err != nil || n < 32 || b[20] != 0 || b[24] != 0x4c || b[25] != 0x56 {
			continue
		}
		p.mu.Lock()
		if seq := int(binary.BigEndian.Uint32(b[28:])); seq < len(p.sent) && p.answered[seq].IsZero() {
			p.answered[seq] = time.Now()
		}
		p.mu.Unlock()
	}
}

func (p *probe) close() {
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	p.wg.Wait()
	unix.Close(p.fd)
}

// loss is what a probe saw since a moment.
type loss struct {
	lost    int
	paused  time.Duration // the machine's processors stood still
	mayLose int           // how many probes that costs
	outage  time.Duration // longest time without an answered probe: the prober's own pauses do not count
}

// since waits for the last answers and counts.
func (p *probe) since(begin time.Time) (r loss) {
	time.Sleep(200 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	end := time.Now().Add(-150 * time.Millisecond)
	r.paused = p.pauses.Within(p.t, begin, end)
	r.mayLose = int((r.paused + probeEvery - 1) / probeEvery)
	dark := time.Time{} // when the first of a row of lost probes was sent
	for i, at := range p.sent {
		switch {
		case at.Before(begin) || at.After(end):
		case !p.answered[i].IsZero():
			dark = time.Time{}
		default:
			r.lost++
			if dark.IsZero() {
				dark = at
			}
			r.outage = max(r.outage, at.Add(probeEvery).Sub(dark))
		}
	}
	return r
}

// frame is a captured frame.
type frame struct {
	at time.Time
	b  []byte
}

// capture records the frames that a host's eth0 receives or sends.
type capture struct {
	fd   int
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	frames []frame
}

// capture starts recording frames of an Ethernet type.
func (l *lab) capture(host string, etherType uint16) *capture {
	l.t.Helper()
	c := &capture{stop: make(chan struct{})}
	l.inside(host, func() (err error) {
		proto := etherType>>8 | etherType<<8
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
		if err == nil {
			err = unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
		if err == nil {
			err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		}
		return err
	})
	c.wg.Go(c.run)
	l.t.Cleanup(c.close)
	return c
}

func (c *capture) run() {
	b, oob := make([]byte, 9000), make([]byte, 64)
	for {
		n, oobn, _, _, err := unix.Recvmsg(c.fd, b, oob, 0)
		select {
		case <-c.stop:
			return
		default:
		}
		if err == nil {
			c.mu.Lock()
			c.frames = append(c.frames, frame{stamp(oob[:oobn]), append([]byte(nil), b[:n]...)})
			c.mu.Unlock()
		}
	}
}

// stamp is the kernel's time of arrival: a busy test must not count as a
// late advert.
func stamp(oob []byte) time.Time {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

func (c *capture) close() {
	select {
	case <-c.stop:
		return
	default:
	}
	close(c.stop)
	c.wg.Wait()
	unix.Close(c.fd)
}

// adverts are the IPv4 advertisements from src so far.
func (c *capture) adverts(src string) (fs []frame) {
	from := netip.MustParseAddr(src).As4()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		if len(f.b) >= 34 && f.b[23] == 112 && [4]byte(f.b[26:30]) == from {
			fs = append(fs, f)
		}
	}
	return fs
}
