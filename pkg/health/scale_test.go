package health_test

import (
	"bufio"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

const (
	reals    = 2000
	services = 5
)

// farm is the targets of five services with the same 2,000 reals, all of
// them addresses of loopback, where one process listens.
func farm(tb testing.TB, spec health.Spec) []health.Target {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), listenerEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		tb.Fatal(err)
	}
	var targets []health.Target
	for range services {
		for i := range reals {
			real := netip.AddrFrom4([4]byte{127, 9, byte(i >> 8), byte(i)})
			targets = append(targets, health.Target{Spec: spec, Real: real, Port: uint16(port)})
		}
	}
	return targets
}

// cpu is the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMonitor runs 2,000 reals of five services at an interval of a
// second and reports which share of one core the monitor takes.
func BenchmarkMonitor(b *testing.B) {
	for _, spec := range []health.Spec{
		{Type: health.TCP, Interval: time.Second, Timeout: 3 * time.Second},
	} {
		b.Run(string(spec.Type), func(b *testing.B) {
			targets := farm(b, spec)
			m := health.NewMonitor(health.Options{})
			m.Set(targets)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error)
			go func() { done <- m.Run(ctx) }()
			time.Sleep(2 * time.Second)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				c, t := cpu(b), time.Now()
				time.Sleep(10 * time.Second)
				b.ReportMetric(100*float64(cpu(b)-c)/float64(time.Since(t)), "%core")
			}
			runtime.ReadMemStats(&after)
			up := 0
			for _, s := range m.Snapshot() {
				if s.Up {
					up++
				}
			}
			b.ReportMetric(float64(up), "up")
			b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
			cancel()
			<-done
		})
	}
}
