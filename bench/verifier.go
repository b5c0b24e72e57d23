package main

import (
	"bytes"
	"context"
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

// programs are those that the verifier is asked about, with the end of their
// figures' names and how the report calls them.
var programs = []struct {
	name, end, what string
	load            func() (*ebpf.CollectionSpec, error)
}{
	{"lb", "", "", bpf.LoadSpec},
	{"lb6", "6", ", IPv6", bpf.LoadSpec6},
}

// verifier returns what the packet path costs to load, here and on an older
// kernel, which runs in a virtual machine.
func verifier(ctx context.Context, j *job) error {
	fmt.Fprint(j.notes, "verifier, this kernel ")
	note := func(kernel, short string, of int, n int) {
		p := programs[of]
		j.report.figure("verifier", "instructions"+p.end+"/"+short, kernel+p.what+": instructions processed", "", float64(n))
	}
	kernel := "Linux " + j.report.Kernel
	for i, p := range programs {
		spec, err := p.load()
		if err != nil {
			return err
		}
		n, took, err := verify(spec, p.name)
		if err != nil {
			return err
		}
		note(kernel, j.report.Kernel, i, n)
		j.report.spread("verifier", "load"+p.end+"/"+j.report.Kernel, kernel+p.what+": the program loaded", "ms", took)
		j.report.Checks = append(j.report.Checks,
			atMost("verifier"+p.what+": instructions processed", float64(n), mostInstructions),
			atMost("verifier"+p.what+": load time (ms)", summarize(took).Median, mostLoading))
	}
	if j.quick {
		fmt.Fprintln(j.notes)
		return nil
	}
	fmt.Fprint(j.notes, ", the guest's ")
	found, err := verifyInGuest(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(j.notes)
	for i, p := range programs {
		note(guestKernel, "guest", i, found[i])
		j.report.Checks = append(j.report.Checks, atMost("verifier, "+guestKernel+p.what+": instructions processed", float64(found[i]), mostInstructions))
	}
	return nil
}

// verify loads a program some times: the instructions that the verifier
// processed, and how many milliseconds each load took, of the thread's own time:
// what else runs on the machine does not count.
func verify(spec *ebpf.CollectionSpec, program string) (n int, took []float64, err error) {
	const times = 7
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, table := range []string{"flows", "templates", "flows6", "templates6"} {
		if m := spec.Maps[table]; m != nil {
			m.MaxEntries = raceTable // making large maps is not what is measured
		}
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
		alone := spec.Copy()
		alone.Programs = map[string]*ebpf.ProgramSpec{program: alone.Programs[program]}
		start := cpuTime()
		loaded, err := ebpf.NewCollectionWithOptions(alone, o)
		if err != nil {
			return 0, nil, fmt.Errorf("load %s: %w", program, err)
		}
		if i > 0 {
			took = append(took, float64((cpuTime()-start).Microseconds())/1000)
		} else {
			n, err = number(processed, loaded.Programs[program].VerifierLog)
		}
		loaded.Close()
		if err != nil {
			return 0, nil, err
		}
	}
	return n, took, nil
}

var processed = regexp.MustCompile(`processed (\d+) insns`)

// guestKernel is what the virtual machine runs: Debian's, which is 6.1 in
// Debian 12.
const guestKernel = "Debian's kernel in a guest"

// verifyInGuest has the loader's own test tell of each program, on the kernel
// of the lane.
func verifyInGuest(ctx context.Context) (found []int, err error) {
	out, err := inGuest(ctx, "verifier")
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		n, err := number(regexp.MustCompile(`\b`+p.name+`: (\d+) instructions processed`), out)
		if err != nil {
			return nil, err
		}
		found = append(found, n)
	}
	return found, nil
}

// inGuest runs a suite of the lane and returns what it said.
func inGuest(ctx context.Context, suite string) (string, error) {
	at := slices.IndexFunc(guest.Suites, func(s guest.Suite) bool { return s.Name == suite })
	if at < 0 {
		return "", fmt.Errorf("the lane of the virtual machine has no suite called %s", suite)
	}
	var out bytes.Buffer
	if err := guest.Suites[at].Test(ctx, &out); err != nil {
		return "", fmt.Errorf("virtual machine: %w\n%s", err, out.String())
	}
	return out.String(), nil
}

// number finds one in a text.
func number(r *regexp.Regexp, text string) (int, error) {
	m := r.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no figure in %q (want %s)", text, r)
	}
	return strconv.Atoi(m[1])
}
