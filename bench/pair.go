package main

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Where two CPUs send at once, each has a plan of its own (bpf/bench/plan.h).
const planOfSecond = 8

// A chunk is sent in short pieces, of which those count in which both CPUs ran all
// the time but for this share; at most so many times the packets of the chunk are
// sent for it.
const (
	pairPiece    = 4000 // packets
	leastOverlap = 0.9
	mostPieces   = 4
)

func generateOwn(o *RawObjects) *ebpf.Program { return o.GenerateOwn }
func walkOwn(o *RawObjects) *ebpf.Program     { return o.WalkOwn }

// measuringCPU is the CPU of the measuring thread, partnerCPU that of its partner.
func measuringCPU() int { return runtime.NumCPU() - 1 }
func partnerCPU() int   { return runtime.NumCPU() - 2 }

// placeOfPlan is where a CPU finds its plan.
func placeOfPlan(cpu int) uint32 { return uint32(cpu&1) * planOfSecond }

// partner is another CPU that sends the same frames to the same program, of flows
// of its own or the same ones, until it is stopped.
type partner struct {
	thread chan int // that it runs on, once it has run once
	stop   atomic.Bool
	done   chan error
}

// startPartner returns when the partner has run once, with its thread.
func (r *rig) startPartner(by *ebpf.Program, plan RawPlan) (p *partner, thread int, err error) {
	if err := r.raw.Plans.Put(placeOfPlan(partnerCPU()), &plan); err != nil {
		return nil, 0, fmt.Errorf("partner's plan: %w", err)
	}
	p = &partner{thread: make(chan int, 1), done: make(chan error, 1)}
	go func() { p.done <- p.run(by, plan.Frame[:frame(plan.Frame).size()]) }()
	select {
	case thread = <-p.thread:
		return p, thread, nil
	case err := <-p.done:
		return nil, 0, err
	}
}

func (p *partner) run(by *ebpf.Program, data []byte) error {
	runtime.LockOSThread() // for good: the thread stays on its CPU and ends with the goroutine
	if err := pin(partnerCPU()); err != nil {
		return err
	}
	for first := true; !p.stop.Load(); first = false {
		if _, err := by.Run(&ebpf.RunOptions{Data: data, Repeat: pairPiece}); err != nil {
			return fmt.Errorf("partner: %w", err)
		}
		if first {
			p.thread <- unix.Gettid()
		}
	}
	return nil
}

func (p *partner) end() error {
	p.stop.Store(true)
	return <-p.done
}

// cpuTimeOf is how long a thread of this process has run, until now: its clock is
// MAKE_THREAD_CPUCLOCK of the kernel.
func cpuTimeOf(thread int) time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(int32(^thread<<3|6), &t)
	return time.Duration(t.Nano())
}

// hold attaches a generator to an interface where nothing travels: else the kernel
// waits for all CPUs before and after each run, to put its XDP dispatcher in order.
func (r *rig) hold(generator *ebpf.Program) error {
	if r.held == generator {
		return nil
	}
	if err := r.release(); err != nil {
		return err
	}
	peer, err := net.InterfaceByName(nicPeer)
	if err != nil {
		return err
	}
	r.holder, err = link.AttachXDP(link.XDPOptions{Program: generator, Interface: peer.Index, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("hold the generator: %w", err)
	}
	r.held = generator
	return nil
}

// release is the end of hold.
func (r *rig) release() error {
	if r.holder == nil {
		return nil
	}
	err := r.holder.Close()
	r.held, r.holder = nil, nil
	return err
}

// runInPieces is run in pieces, while the partner sends, too, or alone. counts
// reports whether enough of the packets were sent without a break.
func (r *rig) runInPieces(target *ebpf.Program, t *traffic, n int, hasPartner bool) (took time.Duration, counts bool, err error) {
	if err := r.raw.Slots.Put(uint32(0), target); err != nil {
		return 0, false, fmt.Errorf("tail call: %w", err)
	}
	place, thread := placeOfPlan(measuringCPU()), unix.Gettid()
	if err := r.raw.Plans.Put(place, &t.RawPlan); err != nil {
		return 0, false, fmt.Errorf("plan: %w", err)
	}
	if hasPartner {
		plan := t.RawPlan
		plan.Next += partnersFlows
		plan.Random += partnersFlows
		var p *partner
		if p, thread, err = r.startPartner(t.by(&r.raw), plan); err != nil {
			return 0, false, err
		}
		defer func() { err = errors.Join(err, p.end()) }()
	}
	by, counted := t.by(&r.raw), 0
	if err := r.hold(by); err != nil {
		return 0, false, err
	}
	opts := ebpf.RunOptions{Data: t.Frame[:frame(t.Frame).size()], Repeat: pairPiece}
	for sent := 0; counted < n && sent < mostPieces*n; sent += pairPiece {
		start, own, partners := time.Now(), cpuTime(), cpuTimeOf(thread)
		if _, err := by.Run(&opts); err != nil {
			return 0, false, fmt.Errorf("run: %w", err)
		}
		partners, own = cpuTimeOf(thread)-partners, cpuTime()-own
		if least := time.Duration(leastOverlap * float64(time.Since(start))); own >= least && partners >= least {
			counted += pairPiece
			took += own
		}
	}
	if counted < n/4 {
		return took, false, nil
	}
	return took * time.Duration(n) / time.Duration(counted), true, r.raw.Plans.Lookup(place, &t.RawPlan)
}

// partnersFlows is how far the partner's sequence is from the other.
const partnersFlows = 40 * million

// pairs is about what two CPUs share: lines of flows, cursors, counts of
// connections. Beside each stands a program that returns at once and shares nothing.
func pairs(flows, chunk int) []group {
	if runtime.NumCPU() < 2 {
		return nil
	}
	const more = 16 * million // flows from here on are new
	data := uniform(tcpFrame(ack), flows)
	one := uniform(tcpFrame(ack), 1)
	data.by, one.by = generateOwn, generateOwn
	fresh := sequence(tcpFrame(syn), more)
	fresh.by = walkOwn
	opened := lane{traffic: fresh, packets: chunk, before: (*rig).forget}
	lanes := func(name, what string, l lane) []lane {
		l.prog, l.verdict = lvx, forwarded
		empty := l
		empty.isGross, empty.before = true, nil
		var all []lane
		for _, of := range []lane{empty, l} {
			of.name, of.what = name+"/lvx", what
			if of.isGross {
				of.name, of.what = name+"/empty", what+", a program that returns at once"
			}
			for _, cpus := range []string{"one", "two"} {
				next := of
				next.name, next.what, next.cpus = of.name+"/"+cpus, of.what+", "+cpus+" CPU", 1
				if cpus == "two" {
					next.what += "s at once"
					next.cpus = 2
				}
				all = append(all, next)
			}
		}
		return all
	}
	return []group{{
		name: "two CPUs, established", state: services(1, 2),
		prepare: func(r *rig) error {
			_ = r.forget()
			return r.establish(uniform(tcpFrame(ack), flows), flows)
		},
		lanes: slices.Concat(
			lanes("pair_established/1", "established TCP, 1 flow", lane{traffic: one, packets: 4 * chunk}),
			lanes("pair_established/1M", "established TCP, 1M flows", lane{traffic: data, packets: chunk})),
	}, {
		name: "two CPUs, new flows", state: services(1, 2),
		lanes: lanes("pair_new", "new SYN, empty table", opened),
	}, {
		name: "two CPUs, new flows of mh", state: with(services(1, 64), byHash),
		lanes: lanes("pair_new_mh64", "new SYN, empty table, mh of 64 reals", opened),
	}}
}

// pairTargets are the least of what two CPUs do beside one, as a share of what an
// empty program does.
var pairTargets = []struct {
	what, name string
	least      float64
}{
	{"two CPUs at once against one, established, 1 flow / an empty program's", "pair_established/1", 0.95},
	{"two CPUs at once against one, established, 1M flows / an empty program's", "pair_established/1M", 0.95},
	{"two CPUs at once against one, new / an empty program's", "pair_new", 0.85},
}

// checkPairs compares the gains. The generator's time, which the empty program's
// is, is not in that of lvx, so that what lvx alone loses is not made less of.
func checkPairs(median map[string]float64) (out []Check) {
	for _, t := range pairTargets {
		gain := func(of string) float64 {
			one, two := median[t.name+"/"+of+"/one"], median[t.name+"/"+of+"/two"]
			if one <= 0 || two <= 0 {
				return 0
			}
			return 2 * one / two
		}
		if lvx, empty := gain("lvx"), gain("empty"); lvx > 0 && empty > 0 {
			out = append(out, atLeast(t.what, lvx/empty, t.least))
		}
	}
	return out
}
