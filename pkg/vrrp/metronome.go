package vrrp

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// metronome has the kernel send the next few adverts of a master by itself,
// on time. A Go program cannot promise that: after a system call a thread
// may run Go code again only when a processor of the Go scheduler is free,
// which takes 10 ms in a busy daemon and was seen to take a second on a
// busy host. The advert thread has only to come around now and then to queue
// more. If it does not, because the daemon is stuck, adverts end when the
// queue is empty; with the process they end at once.
type metronome struct {
	ring   *uring
	last   uint64                  // id of the last submission
	times  [ringSize]unix.Timespec // read by the kernel at submission
	flying map[uint64]*sheet       // read by the kernel until completion
	failed func(v *vrouter, err error)
}

// ahead is how many beats are queued: half a second of them, so that a
// stuck daemon is found out not much later than a dead one.
func ahead(every time.Duration) int {
	return min(max(int(500*time.Millisecond/every), 1), 12)
}

// message is an advert for one destination.
type message struct {
	conn     *conn
	src, dst netip.Addr
	packet   []byte
}

// sheet is a message in the shape that sendmsg(2) wants. It is never
// changed: the kernel reads it when a beat is due.
type sheet struct {
	message
	v   *vrouter
	msg unix.Msghdr
	iov unix.Iovec
	to4 unix.RawSockaddrInet4
	to6 unix.RawSockaddrInet6
	oob []byte
}

// score is what is queued for one virtual router.
type score struct {
	sheets []*sheet
	beats  []beat
}

// beat is one queued advert, with a timer per destination.
type beat struct {
	at     time.Time
	timers []uint64
}

// newMetronome makes one for the calling thread, or tells why the kernel
// cannot: io_uring may be missing or forbidden. Failed hears of messages
// that could not be sent.
func newMetronome(failed func(*vrouter, error)) (*metronome, error) {
	ring, err := newUring()
	if err != nil {
		return nil, err
	}
	m := &metronome{ring: ring, flying: map[uint64]*sheet{}, failed: failed}
	if err := m.try(); err != nil {
		ring.close()
		return nil, err
	}
	return m, nil
}

func (m *metronome) close() { m.ring.close() }

// try finds out whether a timer that runs out lets its successor run, which
// it does since Linux 5.16.
func (m *metronome) try() error {
	timer := m.timer(0)
	nop := sqe{op: opNop, id: m.next()}
	if err := m.ring.push(timer, nop); err != nil {
		return err
	}
	if err := m.ring.submit(); err != nil {
		return err
	}
	const patience = 100
	res := int32(-1)
	for tries, done := 0, false; !done && tries < patience; tries++ {
		m.ring.completions(func(id uint64, r int32) {
			if id == nop.id {
				done, res = true, r
			}
		})
		if !done {
			time.Sleep(time.Millisecond)
		}
	}
	if res != 0 {
		return errors.New("io_uring has no chained timers (Linux 5.16 has)")
	}
	return nil
}

func (m *metronome) next() uint64 {
	m.last++
	return m.last
}

// timer is a submission that lets the one after it run at a time of the
// monotonic clock, in nanoseconds.
func (m *metronome) timer(at int64) sqe {
	id := m.next()
	ts := &m.times[id%ringSize]
	*ts = unix.NsecToTimespec(at)
	return sqe{op: opTimeout, flags: sqeLink, addr: addressOf(ts), len: 1, opFlags: timeoutAbs | timeoutETimeIsFine, id: id}
}

// addressOf is for memory on the Go heap, which does not move; whoever asks
// keeps it alive.
func addressOf[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// monotonic translates t for the kernel.
func monotonic(t time.Time) (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("monotonic clock: %w", err)
	}
	return now.Nano() + int64(time.Until(t)), nil
}

// keep queues the messages for the next beats, from first on. What is
// queued already is left alone, unless it is something else.
func (m *metronome) keep(v *vrouter, messages []message, first time.Time, every time.Duration) error {
	s := &v.score
	if !s.plays(messages) || len(s.beats) > 0 && !s.beats[0].at.Equal(first) {
		if err := m.cancel(s); err != nil {
			return err
		}
		s.sheets = nil
		for _, msg := range messages {
			s.sheets = append(s.sheets, newSheet(v, msg))
		}
	}
	for len(s.beats) < ahead(every) {
		b := beat{at: first.Add(time.Duration(len(s.beats)) * every)}
		due, err := monotonic(b.at)
		if err != nil {
			return err
		}
		for _, sh := range s.sheets {
			timer := m.timer(due)
			send := sqe{op: opSendmsg, fd: int32(sh.conn.fd), addr: addressOf(&sh.msg), len: 1,
				opFlags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL, id: m.next()}
			if err := m.ring.push(timer, send); err != nil {
				return err
			}
			m.flying[send.id] = sh
			b.timers = append(b.timers, timer.id)
		}
		s.beats = append(s.beats, b)
	}
	return m.ring.submit()
}

// plays reports whether the score is for exactly these messages.
func (s *score) plays(messages []message) bool {
	return slices.EqualFunc(s.sheets, messages, func(sh *sheet, m message) bool {
		return sh.conn == m.conn && sh.src == m.src && sh.dst == m.dst && bytes.Equal(sh.packet, m.packet)
	})
}

// played forgets the beats that are over and reports whether the kernel has
// sent the advert that is due now.
func (s *score) played(now time.Time, every time.Duration) (sent bool) {
	for len(s.beats) > 0 && !s.beats[0].at.After(now) {
		sent = now.Sub(s.beats[0].at) < every
		s.beats = s.beats[1:]
	}
	return sent
}

// cancel takes back what is queued. When it returns, nothing more will be
// sent.
func (m *metronome) cancel(s *score) error {
	for _, b := range s.beats {
		for _, id := range b.timers {
			if err := m.ring.push(sqe{op: opTimeoutRemove, addr: id, id: m.next()}); err != nil {
				return err
			}
		}
	}
	s.beats = nil
	return m.ring.submit()
}

// reap looks at what has been sent.
func (m *metronome) reap() {
	m.ring.completions(func(id uint64, res int32) {
		sh, ok := m.flying[id]
		delete(m.flying, id)
		if errno := syscall.Errno(-res); ok && res < 0 && errno != unix.ECANCELED {
			m.failed(sh.v, errno)
		}
	})
}

func newSheet(v *vrouter, m message) *sheet {
	sh := &sheet{v: v, message: m}
	sh.packet = bytes.Clone(m.packet)
	sh.iov.Base = &sh.packet[0]
	sh.iov.SetLen(len(sh.packet))
	sh.msg.Iov = &sh.iov
	sh.msg.SetIovlen(1)
	if m.conn.six {
		sh.to6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: m.dst.As16(), Scope_id: uint32(m.conn.index)}
		sh.msg.Name, sh.msg.Namelen = (*byte)(unsafe.Pointer(&sh.to6)), unix.SizeofSockaddrInet6
	} else {
		sh.to4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: m.dst.As4()}
		sh.msg.Name, sh.msg.Namelen = (*byte)(unsafe.Pointer(&sh.to4)), unix.SizeofSockaddrInet4
	}
	sh.oob = m.conn.from(m.src)
	sh.msg.Control = &sh.oob[0]
	sh.msg.SetControllen(len(sh.oob))
	return sh
}
