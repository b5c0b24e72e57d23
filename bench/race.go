package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// The race: two CPUs, and the sweeper, over flows that were chosen to share a
// few sets of the flow table, so that they meet there all the time. Every
// forwarded packet's MAC is compared with the one its client belongs to
// (bpf/bench/race.c).
const (
	raceCPUs   = 2
	raceTable  = 256 // sets: the smallest table
	raceSets   = 8   // those that the flows share, 32 places
	raceFlows  = 64  // FLOWS in race.c
	raceReals  = 16
	raceChunk  = 1 << 16
	raceLength = time.Minute
)

// race hammers for a minute.
func race(ctx context.Context, j *job) error {
	length := raceLength
	if j.quick {
		length /= 20
	}
	if err := ownNamespace(); err != nil {
		return err
	}
	end := time.Now().Add(length)
	fmt.Fprintf(j.notes, "%d CPUs in the same %d sets for %s ", raceCPUs, raceSets, length)
	var last time.Time
	found, err := hammer(ctx, own, func(sight) bool {
		if time.Since(last) > length/20 {
			last = time.Now()
			fmt.Fprint(j.notes, ".")
		}
		return time.Now().After(end)
	})
	fmt.Fprintln(j.notes)
	if err != nil {
		return err
	}
	j.report.figure("race", "forwarded", "forwarded to the flow's own real", "packets", float64(found.right))
	j.report.figure("race", "evictions", "places that changed hands under way", "flows", float64(found.evicted))
	j.report.figure("race", "misdirected", "forwarded to another flow's real", "packets", float64(found.wrong))
	j.report.Checks = append(j.report.Checks, atMost("two CPUs in the same sets: misdirected packets", float64(found.wrong), 0))
	return nil
}

// sight is what was seen of all packets together.
type sight struct {
	right, wrong, others uint64
	evicted              uint64
	cpus                 int // that took part
}

// own is the bucket that a client's real is found in. Tests have another one,
// to see that the check can fail.
func own(bucket int) int { return bucket }

// hammer runs until enough says so. It must be called in a namespace of its
// own.
func hammer(ctx context.Context, of func(bucket int) int, enough func(sight) bool) (s sight, err error) {
	r, err := newRig(rigOptions{flows: raceTable, templates: raceTable, sweeper: true})
	if err != nil {
		return s, err
	}
	defer func() {
		if e := r.close(); err == nil {
			err = e
		}
	}()
	state := with(services(1, raceReals), alsoUDP)
	state.Services[0].Scheduler = lb.SH
	if err := r.apply(state); err != nil {
		return s, err
	}
	objects, err := r.loadRace(state.Services[0], of)
	if err != nil {
		return s, err
	}
	defer objects.Close()
	before, err := r.evictions()
	if err != nil {
		return s, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, raceCPUs)
	var running sync.WaitGroup
	for cpu := range raceCPUs {
		running.Go(func() { errs <- runRace(ctx, objects.Race, cpu) })
	}
	for ctx.Err() == nil && err == nil {
		if s, err = look(objects); err != nil || enough(s) {
			break
		}
		select {
		case err = <-errs:
		case <-time.After(10 * time.Millisecond):
		}
	}
	stopped := ctx.Err()
	cancel()
	running.Wait()
	if err == nil {
		err = stopped
	}
	if err != nil {
		return s, err
	}
	if s, err = look(objects); err != nil {
		return s, err
	}
	after, err := r.evictions()
	s.evicted = after.total() - before.total()
	return s, err
}

// runRace is one CPU's part.
func runRace(ctx context.Context, prog *ebpf.Program, cpu int) error {
	runtime.LockOSThread() // for good: the thread stays on its CPU and ends with the goroutine
	if err := pin(cpu % runtime.NumCPU()); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, shortFrame), Repeat: raceChunk}); err != nil {
			return fmt.Errorf("CPU %d: %w", cpu, err)
		}
	}
	return nil
}

// loadRace loads the program that looks at every packet, and tells it who
// the clients of a service belong to: not from what the packet path does, but
// from the ring that the kernel's sh would have.
func (r *rig) loadRace(svc lb.Service, of func(bucket int) int) (*RaceObjects, error) {
	spec, err := LoadRace()
	if err != nil {
		return nil, err
	}
	mac := [8]byte{}
	copy(mac[:], directorMAC[:])
	vip := firstVIP.As4()
	for name, value := range map[string]any{
		"vip": binary.NativeEndian.Uint32(vip[:]), "director": binary.NativeEndian.Uint64(mac[:]),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("constant %s: %w", name, err)
		}
	}
	var o RaceObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return nil, fmt.Errorf("race: %w", err)
	}
	err = errors.Join(o.fill(r.prog, svc, of), o.chooseCollidingFlows(r))
	if err != nil {
		_ = o.Close()
		return nil, err
	}
	return &o, nil
}

func (o *RaceObjects) fill(prog *ebpf.Program, svc lb.Service, of func(bucket int) int) error {
	var reals []sched.Real
	for i, x := range svc.Reals {
		reals = append(reals, sched.Real{ID: uint32(i), Weight: x.Weight, Addr: x.Addr})
	}
	ring, err := sched.Build(string(lb.SH), 0, reals, nil, 0)
	if err != nil {
		return err
	}
	for bucket := range ring.Slots {
		owner := RaceOwner{}
		mac := segment{}.Lookup(svc.Reals[ring.Slots[of(bucket)]].Addr).MAC
		copy(owner.Mac[:], mac[:])
		if err := o.Owners.Put(uint32(bucket), &owner); err != nil {
			return fmt.Errorf("owners: %w", err)
		}
	}
	seen := make([]RaceSeen, ebpf.MustPossibleCPU())
	for i := range seen {
		seen[i].Random = uint64(i+1) * (math.MaxUint64 / 97) // any, but not the same
	}
	if err := o.Sights.Put(uint32(0), seen); err != nil {
		return fmt.Errorf("sights: %w", err)
	}
	return o.Slot.Put(uint32(0), prog)
}

// chooseCollidingFlows picks flows, TCP and UDP in turn, whose places are all in the first
// few sets of the table.
func (o *RaceObjects) chooseCollidingFlows(r *rig) error {
	first := firstVIP.As4()
	vip := binary.NativeEndian.Uint32(first[:])
	next := netip.MustParseAddr("10.0.0.0")
	for i := range uint32(raceFlows) {
		f := RaceFlow{Port: be16(1024 + uint16(i)), Protocol: protoTCP}
		if i&1 != 0 {
			f.Protocol = protoUDP
		}
		for meets := false; !meets; next = next.Next() {
			b := next.As4()
			f.Client = binary.NativeEndian.Uint32(b[:])
			one, other := r.sets(f.Client, f.Port, vip, be16(80))
			meets = one < raceSets && other < raceSets
		}
		if err := o.Senders.Put(i, &f); err != nil {
			return fmt.Errorf("senders: %w", err)
		}
	}
	return nil
}

// sets are the two that a flow may be in (flow_hash of bpf/ipv4.h, first_set and second_set
// of bpf/set.h).
func (r *rig) sets(client uint32, port uint16, vip uint32, vipPort uint16) (first, second uint32) {
	s, n := r.dp.Settings, uint64(r.dp.Maps.Flows.MaxEntries())
	h := (uint64(client) | uint64(port)<<32) ^ s.Seed[0]
	h *= s.Seed[1] | 1
	h ^= h >> 32
	h = (h ^ (uint64(vip) | uint64(vipPort)<<32)) * (s.Seed[2] | 1)
	h ^= h >> 29
	first, second = uint32(h&math.MaxUint32*n>>32), uint32(h>>32*n>>32)
	if second == first {
		second ^= 1
	}
	return first, second
}

// look adds up what the CPUs have seen.
func look(o *RaceObjects) (s sight, err error) {
	var per []RaceSeen
	if err := o.Sights.Lookup(uint32(0), &per); err != nil {
		return s, fmt.Errorf("sights: %w", err)
	}
	for _, c := range per {
		s.right += c.Right
		s.wrong += c.Wrong
		s.others += c.Others
		if c.Right > 0 {
			s.cpus++
		}
	}
	return s, nil
}
