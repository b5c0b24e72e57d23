package loader

import (
	"encoding/binary"
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"
)

// HZ is the kernel's timer frequency: the coarse clocks advance once a jiffy,
// and their resolution says how long that is. It is asked for once: lists ask for
// each of their entries.
func HZ() uint64 { return hz() }

var hz = sync.OnceValue(readHZ)

func readHZ() uint64 {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil || res.Nano() <= 0 {
		return 250
	}
	return uint64((1_000_000_000 + res.Nano()/2) / res.Nano())
}

// TickShift makes ticks of about a second out of jiffies: a tick is
// 2^TickShift jiffies, between 0.71 and 1.42 seconds (1.024 s at HZ 250 and
// 1000).
func TickShift(hz uint64) uint32 {
	shift := uint32(bits.Len64(hz)) - 1
	// 2^shift <= hz < 2^(shift+1): take the nearer one, by ratio.
	if hz*hz > (uint64(1)<<shift)*(uint64(1)<<(shift+1)) {
		shift++
	}
	return shift
}

// renewalSeconds is how long the kernel lets a template live on at a time
// while one of its connections does (ip_vs_conn_expire).
const renewalSeconds = 60

// stillShift leaves nothing of the jiffies.
const stillShift = 63

// Now is the packet path's clock in ticks (clock_now of bpf/flow.h).
func (d *Datapath) Now() (uint64, error) {
	if d.opts.StillClock {
		return d.Settings.Clock, nil
	}
	j, err := d.Jiffies()
	return j>>TickShift(HZ()) + d.Settings.Clock, err
}

func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// membarrier(MEMBARRIER_CMD_GLOBAL) is synchronize_rcu() for those outside
// (kernel/sched/membarrier.c).
func membarrier() error {
	const global = 1
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
