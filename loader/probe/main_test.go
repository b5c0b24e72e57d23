package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"go.uber.org/goleak"

	"github.com/lvx-lb/lvx/loader/tc"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/testenv"
)

// jobEnv makes the test binary a prober: a process of its own in the
// director's namespace.
const jobEnv = "LVX_TEST_PROBER"

// job is what a prober does: all checks, Times times each, at once.
type job struct {
	Clsact     bool // as on a kernel without tcx
	XDP        bool // with a program in front that passes everything
	Interfaces []string
	Targets    []health.Target
	Times      int
	Hang       bool          // stay attached until killed
	Watch      time.Duration // instead: monitor Times variants of each target for so long, and print the share of a core that took
}

var hooks = map[bool]hook{false: either, true: clsact}

// clsact attaches as on a kernel without tcx.
func clsact(index int, in, out *ebpf.Program) (io.Closer, error) {
	return tc.AttachFilters(index, programs(in, out))
}

func TestMain(m *testing.M) {
	if text := os.Getenv(jobEnv); text != "" {
		if err := probeMain(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// probeMain prints, per target, the distinct answers it got.
func probeMain(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	path, err := attach(j.Interfaces, func(a netip.Addr) bool { return a == testenv.VIP || a == vip6 }, hooks[j.Clsact])
	if err != nil {
		return err
	}
	if j.XDP {
		undo, err := passXDP(j.Interfaces[0])
		if err != nil {
			return err
		}
		defer undo()
	}
	if j.Watch > 0 {
		return errors.Join(watchMain(path, j), path.Close())
	}
	answers := make([]map[string]int, len(j.Targets))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, t := range j.Targets {
		answers[i] = map[string]int{}
		for range max(j.Times, 1) {
			c, err := health.New(t, health.WithPath(path))
			if err != nil {
				return err
			}
			wg.Go(func() {
				answer := "pass"
				if err := c.Check(context.Background()); err != nil {
					answer = err.Error()
				}
				mu.Lock()
				defer mu.Unlock()
				answers[i][answer]++
			})
		}
	}
	wg.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		return err
	}
	if j.Hang {
		time.Sleep(time.Hour) // not for ever: a process whose threads all wait for ever ends as deadlocked
	}
	return path.Close()
}

// passXDP attaches a program to an interface, natively.
func passXDP(name string) (undo func(), err error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	const pass = 2
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.XDP,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()},
	})
	if err != nil {
		return nil, err
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: iface.Index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, errors.Join(err, prog.Close())
	}
	return func() { l.Close(); prog.Close() }, nil
}

// watchMain prints the share of a core that monitoring takes, in percent,
// and how many targets are up.
func watchMain(path *Path, j job) error {
	m := health.NewMonitor(health.Options{New: func(t health.Target) (health.Checker, error) {
		return health.New(t, health.WithPath(path))
	}})
	var targets []health.Target
	for _, t := range j.Targets {
		for range j.Times { // each another target, with a path of its own
			t.Spec.Timeout++
			targets = append(targets, t)
		}
	}
	m.Set(targets)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	time.Sleep(3 * time.Second) // the first probes all start at once
	var before, after syscall.Rusage
	began := time.Now()
	err := errors.Join(
		syscall.Getrusage(syscall.RUSAGE_SELF, &before),
		func() error { time.Sleep(j.Watch); return nil }(),
		syscall.Getrusage(syscall.RUSAGE_SELF, &after),
	)
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	up := 0
	for _, s := range m.Snapshot() {
		if s.Up {
			up++
		}
	}
	fmt.Println(100*float64(used)/float64(time.Since(began)), up)
	cancel()
	return errors.Join(err, <-done)
}
