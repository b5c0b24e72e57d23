package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// rig is lvx, loaded and configured as the daemon does it, next to the
// yardsticks, in a network namespace of the calling thread's own.
type rig struct {
	lvx  *xdp.Backend
	dp   *loader.Datapath
	prog *ebpf.Program // lvx
	raw  RawObjects

	held   *ebpf.Program // a generator that is attached to an interface,
	holder link.Link     // and by what

	repeated int // runs that a signal interrupted, and that began again
}

// Name of the interface that lvx is attached to. Nothing travels on it but in
// the veth measurement.
const nic = "lvxb0"

// nicPeer is its other end.
const nicPeer = "lvxb1"

// rigOptions are table sizes.
type rigOptions struct {
	flows     int // lvx's capacity
	templates int
	ipv6      bool // floor B and the LRU map are IPv6's
	hash      int  // entries of floor B's map
	lru       int
	sweeper   bool
	inPieces  bool // the flow table, however small
	segment   int  // interface that reals are behind; 0: where prog-run's frames come from
}

// segment is a made-up network on which every address answers.
type segment struct{ index int }

func (s segment) Version() uint64 { return 1 }

func (s segment) Routes() []xdp.Route {
	return []xdp.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gateway}}
}

func (s segment) Lookup(a netip.Addr) xdp.Neighbor {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return xdp.Neighbor{MAC: [6]byte{2, 0, b[0], b[1], b[2], b[3]}, Source: directorMAC, IfIndex: s.index, Device: nic, MTU: 1500, From: ownAddr}
}

// ownNamespace moves the calling goroutine, for good, to a thread with an
// empty network namespace, on the machine's last CPU.
func ownNamespace() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network namespace: %w (run as root)", err)
	}
	if err := pin(measuringCPU()); err != nil {
		return err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("memory lock limit: %w", err)
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: nic, HardwareAddr: directorMAC[:]}, PeerName: nicPeer,
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	return netlink.LinkSetUp(veth)
}

// pin keeps the calling thread on one CPU.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("CPU %d: %w", cpu, err)
	}
	return nil
}

// loopback is where prog-run's frames come from.
const loopback = 1

func newRig(o rigOptions) (*rig, error) {
	r := &rig{}
	dir := fmt.Sprintf("/sys/fs/bpf/lvx-bench-%d", os.Getpid())
	var err error
	piecesFrom := 0
	if o.inPieces {
		piecesFrom = 1
	}
	r.lvx, err = xdp.Open(context.Background(), xdp.Options{
		Log: slog.New(slog.DiscardHandler), Interfaces: []string{nic}, Mode: loader.Native, PinDir: dir,
		Flows: o.flows, Templates: o.templates, IPv6: o.ipv6, Neighbors: segment{max(o.segment, loopback)}, NoSweeper: !o.sweeper, PiecesFrom: piecesFrom,
	})
	if err != nil {
		return nil, err
	}
	r.dp = r.lvx.Datapath()
	r.prog = r.dp.Program(nic)
	spec, err := LoadRaw()
	if err == nil {
		hash, lru := "table_b", "table_lru"
		if o.ipv6 {
			hash, lru = "table_b6", "table_lru6"
		}
		spec.Maps[hash].MaxEntries = uint32(max(o.hash, 1))
		spec.Maps[lru].MaxEntries = uint32(max(o.lru, 1))
		err = spec.LoadAndAssign(&r.raw, nil)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("yardsticks: %w", err), r.lvx.Close(false))
	}
	return r, nil
}

func (r *rig) close() error {
	return errors.Join(r.release(), r.raw.Close(), r.lvx.Close(false))
}

func (r *rig) apply(s lb.State) error { return r.lvx.Apply(context.Background(), s) }

// traffic is what a generator is asked for.
type traffic struct {
	RawPlan
	by func(*RawObjects) *ebpf.Program // the generator
}

func generate(o *RawObjects) *ebpf.Program   { return o.Generate }
func generate6(o *RawObjects) *ebpf.Program  { return o.Generate6 }
func regenerate(o *RawObjects) *ebpf.Program { return o.Regenerate }
func reply(o *RawObjects) *ebpf.Program      { return o.Reply }
func quote(o *RawObjects) *ebpf.Program      { return o.Quote }
func walk(o *RawObjects) *ebpf.Program       { return o.Walk }
func walk6(o *RawObjects) *ebpf.Program      { return o.Walk6 }

// uniform sends frames like f, to the first VIP, port 80, of any of so many
// flows.
func uniform(f frame, flows int) traffic {
	t := traffic{by: generate}
	if f.isIPv6() {
		t.by = generate6
	}
	t.Frame, t.Flows = f, uint32(flows)
	t.Vips, t.Ports, t.Step = 1, 1, 1
	t.Port = [2]uint16{be16(80), be16(80)}
	return t.toVIP(firstVIP)
}

// skewed has nine of ten packets belong to one flow in a hundred.
func skewed(f frame, flows int) traffic {
	t := uniform(f, flows)
	t.Hot, t.Share = uint32(flows/100), 1<<32/10*9
	return t
}

// sequence sends flow after flow, from number first on.
func sequence(f frame, first int) traffic {
	return uniform(f, 1).from(first)
}

// from sends flow after flow, from number first on.
func (t traffic) from(first int) traffic {
	t.by = walk
	if frame(t.Frame).isIPv6() {
		t.by = walk6
	}
	t.Next = uint64(first)
	return t
}

func (t traffic) toVIP(a netip.Addr) traffic {
	b := a.As4()
	t.Vip = binary.NativeEndian.Uint32(b[:])
	return t
}

func (t traffic) ports(a, b uint16) traffic {
	t.Port, t.Ports = [2]uint16{be16(a), be16(b)}, 2
	return t
}

func (t traffic) overVIPs(n int) traffic {
	t.Vips = uint32(n)
	return t
}

// flowsPerClient is how many consecutive flows share a client.
const flowsPerClient = 8

// clientEach makes every flow of a sequence one of another client.
func (t traffic) clientEach() traffic {
	t.Step = flowsPerClient
	return t
}

// be16 is a port in network byte order.
func be16(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// run sends n frames of t to a program and returns how long that took, and
// the program's last answer. The kernel's own figure is in whole nanoseconds
// per packet; the thread's CPU time is finer and leaves out what else ran on
// the CPU. The price of the system call is in the baseline too.
func (r *rig) run(target *ebpf.Program, t *traffic, n int) (time.Duration, uint32, error) {
	set := func() error {
		if err := r.raw.Plans.Put(uint32(0), &t.RawPlan); err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		return nil
	}
	if err := r.raw.Slots.Put(uint32(0), target); err != nil {
		return 0, 0, fmt.Errorf("tail call: %w", err)
	}
	if err := set(); err != nil {
		return 0, 0, err
	}
	start := cpuTime()
	opts := ebpf.RunOptions{Data: t.Frame[:frame(t.Frame).size()], Repeat: uint32(n), Reset: func() {
		r.repeated++
		_ = set()
		start = cpuTime()
	}}
	answer, err := t.by(&r.raw).Run(&opts)
	took := cpuTime() - start
	if err != nil {
		return 0, 0, fmt.Errorf("run: %w", err)
	}
	return took, answer, r.raw.Plans.Lookup(uint32(0), &t.RawPlan)
}

// cpuTime is how long the calling thread has run.
func cpuTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
