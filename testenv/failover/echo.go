package failover

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv"
)

// EchoEvery is the interval of the probes.
const EchoEvery = 5 * time.Millisecond

// Echo asks an address for an ICMP echo all the time and notes which probes
// are answered.
type Echo struct {
	fd   int
	wire wire
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time
	answered []time.Time // zero: not
}

// wire is how a family asks for an echo. A raw socket of IPv6 sums by itself,
// and gives no header.
type wire struct {
	family, protocol int
	request, reply   byte
	header           int // of what is received
}

var (
	icmp4 = wire{unix.AF_INET, unix.IPPROTO_ICMP, 8, 0, 20}
	icmp6 = wire{unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129, 0}
)

// StartEcho begins to probe from a host.
func StartEcho(h *testenv.Host, addr netip.Addr) (*Echo, error) {
	e := &Echo{stop: make(chan struct{}), wire: icmp4}
	if addr.Is6() {
		e.wire = icmp6
	}
	err := h.Do(func() (err error) {
		e.fd, err = unix.Socket(e.wire.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, e.wire.protocol)
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	})
	if err != nil {
		return nil, fmt.Errorf("echo probe: %w", err)
	}
	e.wg.Go(func() { e.send(addr) })
	e.wg.Go(e.receive)
	return e, nil
}

func (e *Echo) send(addr netip.Addr) {
	tick := time.NewTicker(EchoEvery)
	defer tick.Stop()
	var to unix.Sockaddr
	if addr.Is4() {
		to = &unix.SockaddrInet4{Addr: addr.As4()}
	} else {
		to = &unix.SockaddrInet6{Addr: addr.As16()}
	}
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		e.mu.Lock()
		seq := len(e.sent)
		e.sent, e.answered = append(e.sent, time.Now()), append(e.answered, time.Time{})
		e.mu.Unlock()
		_ = unix.Sendto(e.fd, e.wire.echo(uint32(seq)), unix.MSG_DONTWAIT, to) // not sent is not answered
	}
}

// echo is an echo request; the sequence number is in the data, where it does
// not wrap.
func (w wire) echo(seq uint32) []byte {
	b := []byte{w.request, 0, 0, 0, 'L', 'V', 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[8:], seq)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return b
}

func (e *Echo) receive() {
	b := make([]byte, 1500)
	for {
		n, _, err := unix.Recvfrom(e.fd, b, 0)
		select {
		case <-e.stop:
			return
		default:
		}
		m := b[min(e.wire.header, max(n, 0)):max(n, 0)]
		if err != nil || len(m) < 12 || m[0] != e.wire.reply || m[4] != 'L' || m[5] != 'V' {
			continue
		}
		e.mu.Lock()
		if seq := int(binary.BigEndian.Uint32(m[8:])); seq < len(e.sent) && e.answered[seq].IsZero() {
			e.answered[seq] = time.Now()
		}
		e.mu.Unlock()
	}
}

// Close ends the probe.
func (e *Echo) Close() error {
	close(e.stop)
	e.wg.Wait()
	return unix.Close(e.fd)
}

// Loss is what a probe saw.
type Loss struct {
	Probes int
	Lost   int
	Outage time.Duration // longest gap between two answers with a lost probe in it, less the interval; 0 if none was lost
}

// late is how long an answer may take.
const late = 200 * time.Millisecond

// Since returns what happened since a moment. It waits for the last answers.
func (e *Echo) Since(begin time.Time) Loss {
	end := time.Now()
	time.Sleep(late)
	e.mu.Lock()
	defer e.mu.Unlock()
	return lossOf(e.sent, e.answered, begin, end)
}

func lossOf(sent, answered []time.Time, begin, end time.Time) (l Loss) {
	last, missing := begin, false
	gap := func(until time.Time) {
		if missing {
			l.Outage = max(l.Outage, until.Sub(last)-EchoEvery)
		}
	}
	for i, at := range sent {
		switch {
		case at.Before(begin) || at.After(end):
			continue
		case answered[i].IsZero():
			l.Lost++
			missing = true
		default:
			gap(answered[i])
			last, missing = answered[i], false
		}
		l.Probes++
	}
	gap(end)
	return l
}
