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

	"github.com/lvx-lb/lvx/bpf"
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

// contest is what is raced with.
type contest struct {
	end, what string // of the figures' names, and in their texts
	isIPv6    bool
	oneName   bool // all clients of IPv6 have one name: their keys are equal
	inPieces  bool // the table is one like a large one's
}

var contests = []contest{
	{"", "", false, false, false},
	{"6", ", IPv6", true, false, false},
	{"6_twins", ", IPv6, all clients of one name", true, true, false},
	{"_pieces", ", in pieces", false, false, true},
	{"6_pieces", ", IPv6, in pieces, all clients of one name", true, true, true},
}

// race hammers for a minute with each.
func race(ctx context.Context, j *job) error {
	length := raceLength
	if j.quick {
		length /= 20
	}
	if err := ownNamespace(); err != nil {
		return err
	}
	for _, c := range contests {
		if err := j.raceOf(ctx, c, length); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) raceOf(ctx context.Context, c contest, length time.Duration) error {
	end := time.Now().Add(length)
	fmt.Fprintf(j.notes, "%d CPUs in the same %d sets for %s%s ", raceCPUs, raceSets, length, c.what)
	var last time.Time
	found, err := hammer(ctx, c, own, func(sight) bool {
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
	j.report.figure("race", "forwarded"+c.end, "forwarded to the flow's own real"+c.what, "packets", float64(found.right))
	j.report.figure("race", "evictions"+c.end, "places that changed hands under way"+c.what, "flows", float64(found.evicted))
	j.report.figure("race", "misdirected"+c.end, "forwarded to another flow's real"+c.what, "packets", float64(found.wrong))
	j.report.Checks = append(j.report.Checks, atMost("two CPUs in the same sets"+c.what+": misdirected packets", float64(found.wrong), 0))
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
func hammer(ctx context.Context, c contest, of func(bucket int) int, enough func(sight) bool) (s sight, err error) {
	r, err := newRig(rigOptions{flows: raceTable, templates: raceTable, ipv6: c.isIPv6, sweeper: true, inPieces: c.inPieces})
	if err != nil {
		return s, err
	}
	defer func() {
		if e := r.close(); err == nil {
			err = e
		}
	}()
	if c.oneName {
		r.dp.Settings.NameKey = [len(r.dp.Settings.NameKey)]uint64{}
	}
	state := c.state()
	if err := r.apply(state); err != nil {
		return s, err
	}
	objects, err := r.loadRace(c, state.Services[0], of)
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

// state is one service that clients are told from by their addresses.
func (c contest) state() lb.State {
	s := with(services(1, raceReals), alsoUDP)
	if c.isIPv6 {
		s = service6(raceReals)
	}
	s.Services[0].Scheduler = lb.SH
	return s
}

// runRace is one CPU's part.
func runRace(ctx context.Context, prog *ebpf.Program, cpu int) error {
	runtime.LockOSThread() // for good: the thread stays on its CPU and ends with the goroutine
	if err := pin(cpu % runtime.NumCPU()); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, shortFrame6), Repeat: raceChunk}); err != nil {
			return fmt.Errorf("CPU %d: %w", cpu, err)
		}
	}
	return nil
}

// loadRace loads the program that looks at every packet, and tells it who
// the clients of a service belong to: not from what the packet path does, but
// from the ring that the kernel's sh would have.
func (r *rig) loadRace(c contest, svc lb.Service, of func(bucket int) int) (*RaceObjects, error) {
	spec, err := LoadRace()
	if err != nil {
		return nil, err
	}
	mac := [8]byte{}
	copy(mac[:], directorMAC[:])
	clients := bpf.AddressOf(client6).Word
	constants := map[string]any{
		"vip": bpf.IPv4Word(firstVIP), "director": binary.NativeEndian.Uint64(mac[:]),
		"vip6": bpf.AddressOf(firstVIP6).Word, "network": [3]uint32(clients[:3]), "is_ipv6": uint32(0),
	}
	if c.isIPv6 {
		constants["is_ipv6"] = uint32(1)
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("constant %s: %w", name, err)
		}
	}
	var o RaceObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return nil, fmt.Errorf("race: %w", err)
	}
	err = errors.Join(o.fill(r.prog, svc, of), o.chooseCollidingFlows(r, c))
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
// few sets of the table. Of clients of one name each port has so many flows as
// two sets have places, and all are UDP: a bare ACK without a connection may go
// by the flow of another client there.
func (o *RaceObjects) chooseCollidingFlows(r *rig, c contest) error {
	next, port := netip.MustParseAddr("10.0.0.0"), uint16(1024)
	var vip map[uint16]uint16
	if c.isIPv6 {
		var err error
		if vip, err = r.numbers6(); err != nil {
			return err
		}
	}
	for i := range uint32(raceFlows) {
		protocol := uint16(protoTCP)
		if i&1 != 0 || c.oneName {
			protocol = protoUDP
		}
		if !c.oneName || i%(2*bpf.Ways) == 0 {
			port++
		}
		for meets := false; !meets; next = next.Next() {
			sets := r.sets(next, port)
			if c.isIPv6 {
				sets = r.sets6(clientOf(next), port, vip[protocol])
			}
			if meets = sets[0] < raceSets && sets[1] < raceSets; !meets && c.oneName {
				port++ // which alone says where the places are
			}
		}
		f := RaceFlow{Client: bpf.IPv4Word(next.Prev()), Port: be16(port), Protocol: protocol}
		if err := o.Senders.Put(i, &f); err != nil {
			return fmt.Errorf("senders: %w", err)
		}
	}
	return nil
}

// clientOf is the client of IPv6 with these last four bytes.
func clientOf(last netip.Addr) netip.Addr {
	a := client6.As16()
	copy(a[12:], last.AsSlice())
	return netip.AddrFrom16(a)
}

// sets are the two that a flow may be in.
func (r *rig) sets(client netip.Addr, port uint16) [2]uint32 {
	hash := r.dp.Settings.FlowHash(netip.AddrPortFrom(client, port), netip.AddrPortFrom(firstVIP, 80))
	return bpf.TwoSets(hash, r.dp.FlowSets(0))
}

// sets6 are those of a flow of IPv6, at a VIP of this number.
func (r *rig) sets6(client netip.Addr, port, vip uint16) [2]uint32 {
	key := bpf.FlowKey(r.dp.Settings.NameOf(client)) | bpf.FlowKey(be16(port))<<32 | bpf.FlowKey(vip)<<48
	return bpf.TwoSets(r.dp.Settings.FlowHash6(key, 80), r.dp.FlowSets(1))
}

// numbers6 are the numbers of the VIP of IPv6, by protocol.
func (r *rig) numbers6() (map[uint16]uint16, error) {
	for _, line := range r.dp.VIPs {
		for _, v := range line.Way {
			if v.Addr.Addr() == firstVIP6 {
				return map[uint16]uint16{protoTCP: v.TCP, protoUDP: v.UDP}, nil
			}
		}
	}
	return nil, fmt.Errorf("VIP %s has no number", firstVIP6)
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
