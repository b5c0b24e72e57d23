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

// advertQueue has the kernel send the next few adverts of a master by itself,
// on time. A Go program cannot promise that: after a system call a thread
// may run Go code again only when a processor of the Go scheduler is free,
// which takes 10 ms in a busy daemon and was seen to take a second on a
// busy host. The advert thread has only to come around now and then to queue
// more. If it does not, because the daemon is stuck, adverts end when the
// queue is empty; with the process they end at once.
type advertQueue struct {
	ring      *uring
	last      uint64                  // id of the last submission
	times     [ringSize]unix.Timespec // read by the kernel at submission
	inFlight  map[uint64]*message     // read by the kernel until completion
	onFailure func(v *vrouter, err error)
}

// slotsAhead is how many adverts are queued: half a second of them, so that a
// stuck daemon is found out not much later than a dead one.
func slotsAhead(every time.Duration) int {
	return min(max(int(500*time.Millisecond/every), 1), 12)
}

// advert is an advert for one destination.
type advert struct {
	conn     *conn
	src, dst netip.Addr
	packet   []byte
}

// message is a message in the shape that sendmsg(2) wants. It is never
// changed: the kernel reads it when a slot is due.
type message struct {
	advert
	v   *vrouter
	msg unix.Msghdr
	iov unix.Iovec
	to4 unix.RawSockaddrInet4
	to6 unix.RawSockaddrInet6
	oob []byte
}

// queuedAdverts is what is queued for one virtual router.
type queuedAdverts struct {
	messages []*message
	slots    []slot
}

// slot is one queued advert, with a timer per destination.
type slot struct {
	at     time.Time
	timers []uint64
}

// newAdvertQueue makes a queue for the calling thread. The error says why the
// kernel cannot have one: io_uring may be missing or forbidden. onFailure is
// called for each message that could not be sent.
func newAdvertQueue(failed func(*vrouter, error)) (*advertQueue, error) {
	ring, err := newUring()
	if err != nil {
		return nil, err
	}
	m := &advertQueue{ring: ring, inFlight: map[uint64]*message{}, onFailure: failed}
	if err := m.checkKernel(); err != nil {
		ring.close()
		return nil, err
	}
	return m, nil
}

func (m *advertQueue) close() { m.ring.close() }

// checkKernel finds out whether a timer that runs out lets its successor run, which
// it does since Linux 5.16.
func (m *advertQueue) checkKernel() error {
	timer := m.timerEntry(0)
	nop := sqe{op: opNop, id: m.nextID()}
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

func (m *advertQueue) nextID() uint64 {
	m.last++
	return m.last
}

// timerEntry is a submission that lets the one after it run at a time of the
// monotonic clock, in nanoseconds.
func (m *advertQueue) timerEntry(at int64) sqe {
	id := m.nextID()
	ts := &m.times[id%ringSize]
	*ts = unix.NsecToTimespec(at)
	return sqe{op: opTimeout, flags: sqeLink, addr: addressOf(ts), len: 1, opFlags: timeoutAbs | timeoutETimeIsFine, id: id}
}

// addressOf is for memory on the Go heap, which does not move; the caller
// keeps the memory alive.
func addressOf[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// monotonicTime translates t for the kernel.
func monotonicTime(t time.Time) (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("monotonic clock: %w", err)
	}
	return now.Nano() + int64(time.Until(t)), nil
}

// fill queues the adverts for the next slots, from first on. Messages that
// are queued already stay, unless they differ from the wanted ones.
func (m *advertQueue) fill(v *vrouter, messages []advert, first time.Time, every time.Duration) error {
	s := &v.queued
	if !s.sameMessages(messages) || len(s.slots) > 0 && !s.slots[0].at.Equal(first) {
		if err := m.cancelQueued(s); err != nil {
			return err
		}
		s.messages = nil
		for _, msg := range messages {
			s.messages = append(s.messages, newMessage(v, msg))
		}
	}
	for len(s.slots) < slotsAhead(every) {
		b := slot{at: first.Add(time.Duration(len(s.slots)) * every)}
		due, err := monotonicTime(b.at)
		if err != nil {
			return err
		}
		for _, sh := range s.messages {
			timer := m.timerEntry(due)
			send := sqe{op: opSendmsg, fd: int32(sh.conn.fd), addr: addressOf(&sh.msg), len: 1,
				opFlags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL, id: m.nextID()}
			if err := m.ring.push(timer, send); err != nil {
				return err
			}
			m.inFlight[send.id] = sh
			b.timers = append(b.timers, timer.id)
		}
		s.slots = append(s.slots, b)
	}
	return m.ring.submit()
}

// sameMessages reports whether exactly these adverts are queued.
func (s *queuedAdverts) sameMessages(messages []advert) bool {
	return slices.EqualFunc(s.messages, messages, func(sh *message, m advert) bool {
		return sh.conn == m.conn && sh.src == m.src && sh.dst == m.dst && bytes.Equal(sh.packet, m.packet)
	})
}

// dropPast forgets the slots that are over and reports whether the kernel has
// sent the advert that is due now.
func (s *queuedAdverts) dropPast(now time.Time, every time.Duration) (sent bool) {
	for len(s.slots) > 0 && !s.slots[0].at.After(now) {
		sent = now.Sub(s.slots[0].at) < every
		s.slots = s.slots[1:]
	}
	return sent
}

// cancelQueued takes back what is queued. When it returns, nothing more will be
// sent.
func (m *advertQueue) cancelQueued(s *queuedAdverts) error {
	for _, b := range s.slots {
		for _, id := range b.timers {
			if err := m.ring.push(sqe{op: opTimeoutRemove, addr: id, id: m.nextID()}); err != nil {
				return err
			}
		}
	}
	s.slots = nil
	return m.ring.submit()
}

// readCompletions looks at what has been sent.
func (m *advertQueue) readCompletions() {
	m.ring.completions(func(id uint64, res int32) {
		sh, ok := m.inFlight[id]
		delete(m.inFlight, id)
		if errno := syscall.Errno(-res); ok && res < 0 && errno != unix.ECANCELED {
			m.onFailure(sh.v, errno)
		}
	})
}

func newMessage(v *vrouter, m advert) *message {
	sh := &message{v: v, advert: m}
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
	sh.oob = m.conn.sourceControl(m.src)
	sh.msg.Control = &sh.oob[0]
	sh.msg.SetControllen(len(sh.oob))
	return sh
}
