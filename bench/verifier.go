package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	guest "github.com/lvx-lb/lvx/testenv/vm/lane"
)

// Bounds of the verifier's work.
const (
	mostInstructions = 100_000
	mostLoading      = 500 // ms
)

// verifier returns what the packet path costs to load, here and on an older
// kernel, which runs in a virtual machine.
func verifier(ctx context.Context, j *job) error {
	fmt.Fprint(j.notes, "verifier, this kernel ")
	n, took, err := verify()
	if err != nil {
		return err
	}
	j.report.figure("verifier", "instructions/"+j.report.Kernel, "Linux "+j.report.Kernel+": instructions processed", "", float64(n))
	j.report.spread("verifier", "load/"+j.report.Kernel, "Linux "+j.report.Kernel+": the program loaded", "ms", took)
	j.report.Checks = append(j.report.Checks,
		atMost("verifier: instructions processed", float64(n), mostInstructions),
		atMost("verifier: load time (ms)", summarize(took).Median, mostLoading))
	if j.quick {
		fmt.Fprintln(j.notes)
		return nil
	}
	fmt.Fprint(j.notes, ", the guest's ")
	if n, err = verifyInGuest(ctx); err != nil {
		return err
	}
	fmt.Fprintln(j.notes)
	j.report.figure("verifier", "instructions/guest", guestKernel+": instructions processed", "", float64(n))
	j.report.Checks = append(j.report.Checks, atMost("verifier, "+guestKernel+": instructions processed", float64(n), mostInstructions))
	return nil
}

// verify loads the packet path some times: the instructions that the verifier
// processed, and how many milliseconds each load took, of the thread's own time:
// what else runs on the machine does not count.
func verify() (n int, took []float64, err error) {
	const times = 7
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	spec, err := bpf.LoadSpec()
	if err != nil {
		return 0, nil, err
	}
	for _, table := range []string{"flows", "templates"} {
		spec.Maps[table].MaxEntries = raceTable // making large maps is not what is measured
	}
	maps := spec.Copy()
	maps.Programs = nil
	tables, err := ebpf.NewCollection(maps)
	if err != nil {
		return 0, nil, fmt.Errorf("maps: %w", err)
	}
	defer tables.Close()
	for i := range times {
		o := ebpf.CollectionOptions{MapReplacements: tables.Maps}
		if i == 0 {
			o.Programs.LogLevel = ebpf.LogLevelStats
		}
		var p struct {
			LB *ebpf.Program `ebpf:"lb"`
		}
		start := cpuTime()
		if err := spec.Copy().LoadAndAssign(&p, &o); err != nil {
			return 0, nil, fmt.Errorf("load: %w", err)
		}
		if i > 0 {
			took = append(took, float64((cpuTime()-start).Microseconds())/1000)
		} else if n, err = number(processed, p.LB.VerifierLog); err != nil {
			return 0, nil, errors.Join(err, p.LB.Close())
		}
		if err := p.LB.Close(); err != nil {
			return 0, nil, err
		}
	}
	return n, took, nil
}

var (
	processed  = regexp.MustCompile(`processed (\d+) insns`)
	inTheGuest = regexp.MustCompile(`(\d+) instructions processed`)
)

// guestKernel is what the virtual machine runs: Debian's, which is 6.1 in
// Debian 12.
const guestKernel = "Debian's kernel in a guest"

// verifyInGuest has the loader's own test tell, on the kernel of the lane.
func verifyInGuest(ctx context.Context) (int, error) {
	at := slices.IndexFunc(guest.Suites, func(s guest.Suite) bool { return s.Name == "verifier" })
	if at < 0 {
		return 0, errors.New("the lane of the virtual machine has no suite called verifier")
	}
	var out bytes.Buffer
	if err := guest.Suites[at].Test(ctx, &out); err != nil {
		return 0, fmt.Errorf("virtual machine: %w\n%s", err, out.String())
	}
	return number(inTheGuest, out.String())
}

// number finds one in a text.
func number(r *regexp.Regexp, text string) (int, error) {
	m := r.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no figure in %q (want %s)", text, r)
	}
	return strconv.Atoi(m[1])
}
