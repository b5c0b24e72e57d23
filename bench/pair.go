package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// Where two CPUs send at once, each has a plan of its own (bpf/bench/plan.h).
const planOfSecond = 8

// leastOverlap is the share of a chunk in which the partner must have run, too,
// for the chunk to count.
const leastOverlap = 0.8

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
	spent   atomic.Int64 // nanoseconds of CPU time
	started chan struct{}
	stop    atomic.Bool
	done    chan error
}

// startPartner returns when the partner has run once.
func (r *rig) startPartner(by *ebpf.Program, plan RawPlan) (*partner, error) {
	if err := r.raw.Plans.Put(placeOfPlan(partnerCPU()), &plan); err != nil {
		return nil, fmt.Errorf("partner's plan: %w", err)
	}
	p := &partner{started: make(chan struct{}), done: make(chan error, 1)}
	go func() { p.done <- p.run(by, plan.Frame[:frame(plan.Frame).size()]) }()
	select {
	case <-p.started:
		return p, nil
	case err := <-p.done:
		return nil, err
	}
}

func (p *partner) run(by *ebpf.Program, data []byte) error {
	runtime.LockOSThread() // for good: the thread stays on its CPU and ends with the goroutine
	if err := pin(partnerCPU()); err != nil {
		return err
	}
	const repeat = 4000
	for first := true; !p.stop.Load(); first = false {
		if _, err := by.Run(&ebpf.RunOptions{Data: data, Repeat: repeat}); err != nil {
			return fmt.Errorf("partner: %w", err)
		}
		p.spent.Store(int64(cpuTime()))
		if first {
			close(p.started)
		}
	}
	return nil
}

func (p *partner) end() error {
	p.stop.Store(true)
	return <-p.done
}

// runBeside is run while the partner sends, too. isBeside reports whether it did so
// nearly all of the time.
func (r *rig) runBeside(target *ebpf.Program, t *traffic, n int) (took time.Duration, isBeside bool, err error) {
	if err := r.raw.Slots.Put(uint32(0), target); err != nil {
		return 0, false, fmt.Errorf("tail call: %w", err)
	}
	plan := t.RawPlan
	plan.Next += partnersFlows
	plan.Random += partnersFlows
	p, err := r.startPartner(t.by(&r.raw), plan)
	if err != nil {
		return 0, false, err
	}
	start, before := time.Now(), p.spent.Load()
	took, _, err = r.run(target, t, n)
	partnerTime := time.Duration(p.spent.Load() - before)
	wall := time.Since(start)
	if e := p.end(); err == nil {
		err = e
	}
	return took, partnerTime.Seconds() >= leastOverlap*wall.Seconds(), err
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
	data.by, one.by, data.isOwn, one.isOwn = generateOwn, generateOwn, true, true
	fresh := sequence(tcpFrame(syn), more)
	fresh.by, fresh.isOwn = walkOwn, true
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
				next.name, next.what, next.isPair = of.name+"/"+cpus, of.what+", "+cpus+" CPU", cpus == "two"
				if next.isPair {
					next.what += "s at once"
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
		lanes: lanes("pair_new", "new SYN, empty table", lane{traffic: fresh, packets: chunk, before: (*rig).forget}),
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
