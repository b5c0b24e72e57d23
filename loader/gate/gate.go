// Package gate keeps packets to VIPs from the host's own stack for a moment in
// which no packet path is in front of it: the stack would reset connections
// that it knows nothing of, and refuse those that clients open. Behind a gate
// they meet silence, and ask again.
//
// It opens by itself after [Longest], also if the process that closed it was
// killed. It does not know why it is closed.
package gate

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader/tc"
)

// Longest is how long a gate may be closed. Some drivers take their link down
// for seconds when a program is exchanged for one of another mode.
const Longest = 10 * time.Second

// Gate is a closed gate.
type Gate struct {
	objects rawObjects
	hook    io.Closer
	open    func() error // once
	timer   *time.Timer
}

// Shut closes the gate of an interface to packets for the VIPs.
func Shut(index int, vips []netip.Addr) (*Gate, error) { return shut(index, vips, tc.Attach) }

func shut(index int, vips []netip.Addr, attach func(int, tc.Programs) (io.Closer, error)) (*Gate, error) {
	spec, err := loadRaw()
	if err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, fmt.Errorf("clock: %w", err)
	}
	if err := spec.Variables["gate_opens"].Set(uint64(now.Nano() + Longest.Nanoseconds())); err != nil {
		return nil, fmt.Errorf("time of the gate: %w", err)
	}
	spec.Maps["gate_vips"].MaxEntries = uint32(max(len(vips), 1))
	g := &Gate{}
	if err := spec.LoadAndAssign(&g.objects, nil); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if err := g.fill(vips); err != nil {
		return nil, errors.Join(err, g.objects.Close())
	}
	if g.hook, err = attach(index, tc.Programs{In: g.objects.Gate, Name: "lvx_gate", Priority: 0x6c67}); err != nil { // "lg"
		return nil, errors.Join(fmt.Errorf("attach: %w", err), g.objects.Close())
	}
	g.open = sync.OnceValue(func() error { return errors.Join(g.hook.Close(), g.objects.Close()) })
	g.timer = time.AfterFunc(Longest, func() { _ = g.open() })
	return g, nil
}

// fill names the VIPs to the program.
func (g *Gate) fill(vips []netip.Addr) error {
	for _, vip := range vips {
		if err := g.objects.GateVips.Update(bpf.AddressOf(vip), uint8(1), ebpf.UpdateAny); err != nil {
			return fmt.Errorf("VIP %s: %w", vip, err)
		}
	}
	return nil
}

// Open opens it. A nil Gate is open.
func (g *Gate) Open() error {
	if g == nil {
		return nil
	}
	g.timer.Stop()
	return g.open()
}
