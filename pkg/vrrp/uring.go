package vrrp

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uring is the little of io_uring(7) that [advertQueue] needs: submit, and
// read completions. It belongs to the thread that made it: what falls due is
// done by the kernel on that thread's behalf, whatever the thread waits for.
type uring struct {
	fd                 int
	sq, cq, entries    []byte // mappings
	sqTail, sqMask     *uint32
	sqArray            *uint32
	cqHead, cqTail     *uint32
	cqMask             *uint32
	cqes               unsafe.Pointer
	size, tail, queued uint32
}

// From include/uapi/linux/io_uring.h.
const (
	ringSize = 256

	opNop           = 0
	opSendmsg       = 9
	opTimeout       = 11
	opTimeoutRemove = 12

	sqeLink = 1 << 2 // the next entry starts when this one has succeeded

	timeoutAbs         = 1 << 0
	timeoutETimeIsFine = 1 << 5 // Linux 5.16

	enterGetEvents = 1 << 0

	offsetSQ, offsetCQ, offsetSQEs = 0, 0x8000000, 0x10000000
)

type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32

	sqHead, sqTail, sqRingMask, sqRingEntries, sqFlags, sqDropped, sqArray, _ uint32
	_                                                                         uint64

	cqHead, cqTail, cqRingMask, cqRingEntries, cqOverflow, cqes, cqFlags, _ uint32
	_                                                                       uint64
}

// sqe is a submission.
type sqe struct {
	op, flags uint8
	_         uint16
	fd        int32
	off, addr uint64
	len       uint32
	opFlags   uint32
	id        uint64
	_         [3]uint64
}

// cqe is a completion.
type cqe struct {
	id  uint64
	res int32
	_   uint32
}

func newUring() (r *uring, err error) {
	var p ringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, ringSize, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring: %w", errno)
	}
	r = &uring{fd: int(fd), size: p.sqEntries}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.sq, err = unix.Mmap(r.fd, offsetSQ, int(p.sqArray+4*p.sqEntries), prot, flags); err != nil {
		return nil, fmt.Errorf("io_uring submission ring: %w", err)
	}
	if r.cq, err = unix.Mmap(r.fd, offsetCQ, int(p.cqes+uint32(unsafe.Sizeof(cqe{}))*p.cqEntries), prot, flags); err != nil {
		return nil, fmt.Errorf("io_uring completion ring: %w", err)
	}
	if r.entries, err = unix.Mmap(r.fd, offsetSQEs, int(unsafe.Sizeof(sqe{}))*int(p.sqEntries), prot, flags); err != nil {
		return nil, fmt.Errorf("io_uring entries: %w", err)
	}
	at := func(b []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }
	r.sqTail, r.sqMask, r.sqArray = at(r.sq, p.sqTail), at(r.sq, p.sqRingMask), at(r.sq, p.sqArray)
	r.cqHead, r.cqTail, r.cqMask = at(r.cq, p.cqHead), at(r.cq, p.cqTail), at(r.cq, p.cqRingMask)
	r.cqes = unsafe.Pointer(&r.cq[p.cqes])
	r.tail = *r.sqTail
	return r, nil
}

// close cancels what has not been done.
func (r *uring) close() {
	for _, m := range [][]byte{r.sq, r.cq, r.entries} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	unix.Close(r.fd)
}

// push queues submissions that must go together.
func (r *uring) push(es ...sqe) error {
	if r.queued+uint32(len(es)) > r.size {
		if err := r.submit(); err != nil {
			return err
		}
	}
	for _, e := range es {
		i := r.tail & *r.sqMask
		*(*sqe)(unsafe.Add(unsafe.Pointer(&r.entries[0]), uintptr(i)*unsafe.Sizeof(e))) = e
		*(*uint32)(unsafe.Add(unsafe.Pointer(r.sqArray), uintptr(i)*4)) = i
		r.tail++
		r.queued++
	}
	return nil
}

// submit hands the queue to the kernel, and lets it catch up with what is
// due.
func (r *uring) submit() error {
	atomic.StoreUint32(r.sqTail, r.tail)
	for r.queued > 0 {
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.queued), 0, enterGetEvents, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return fmt.Errorf("io_uring: %w", errno)
		case n == 0:
			return errors.New("io_uring: submission refused")
		}
		r.queued -= uint32(n)
	}
	return nil
}

// completions calls f for every completion there is.
func (r *uring) completions(f func(id uint64, res int32)) {
	head := *r.cqHead
	for tail := atomic.LoadUint32(r.cqTail); head != tail; head++ {
		c := *(*cqe)(unsafe.Add(r.cqes, uintptr(head&*r.cqMask)*unsafe.Sizeof(cqe{})))
		f(c.id, c.res)
	}
	atomic.StoreUint32(r.cqHead, head)
}
