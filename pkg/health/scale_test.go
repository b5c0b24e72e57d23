package health_test

import (
	"bufio"
	"context"
	"net"
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

// openFiles counts this process's file descriptors.
func openFiles(tb testing.TB) int {
	tb.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(fds)
}

// monitor runs a monitor with real sockets until stop is called.
func monitor(tb testing.TB, o health.Options, targets []health.Target) (m *health.Monitor, stop func()) {
	tb.Helper()
	m = health.NewMonitor(o)
	m.Set(targets)
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	return m, func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
}

// soakEnv makes TestScale run longer than a test should: "10m".
const soakEnv = "LVX_SOAK"

// 2,000 reals of five services, asked every second: nobody is down by
// mistake, everybody is asked on time, nothing leaks.
func TestScale(t *testing.T) {
	span := 5 * time.Second
	if s := os.Getenv(soakEnv); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	targets := farm(t, health.Spec{Type: health.TCP, Interval: time.Second, Timeout: time.Minute})
	files := openFiles(t)
	m, stop := monitor(t, health.Options{}, targets)
	downs := make(chan int)
	go func() {
		n := 0
		for e := range m.Events() {
			if !e.New.Up {
				n++
			}
		}
		downs <- n
	}()
	began, used, worst := time.Now(), cpu(t), time.Duration(0)
	for time.Since(began) < span {
		time.Sleep(time.Second)
		for _, s := range m.Snapshot() {
			if !s.Last.IsZero() {
				worst = max(worst, time.Since(s.Last))
			}
		}
	}
	t.Logf("%d goroutines, %d files, %.1f %% of a core, a result was at most %s old",
		runtime.NumGoroutine(), openFiles(t), 100*float64(cpu(t)-used)/float64(time.Since(began)), worst.Round(time.Millisecond))
	all := m.Snapshot()
	if len(all) != reals {
		t.Errorf("%d probes, want %d", len(all), reals)
	}
	for tgt, s := range all {
		if !s.Up || s.Fails != 0 {
			t.Errorf("%s: %+v", tgt.Real, s)
		}
	}
	stop()
	if n := <-downs; n != 0 {
		t.Errorf("%d times down", n)
	}
	if n := openFiles(t); n > files+2 { // the poller's own two
		t.Errorf("%d files are open, %d were", n, files)
	}
}

// bare is what a check costs that only dials, with package net.
type bare struct{ health.Target }

func (b bare) Check(ctx context.Context) error {
	d := net.Dialer{Timeout: b.Spec.Timeout}
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(b.Real, b.Port).String())
	if err != nil {
		return err
	}
	return c.Close()
}

// BenchmarkMonitor runs 2,000 reals of five services at an interval of a
// second and reports which share of one core that takes: at most a quarter
// for checks of TCP.
func BenchmarkMonitor(b *testing.B) {
	for _, bc := range []struct {
		name  string
		typ   health.Type
		build func(health.Target) (health.Checker, error)
		most  float64
	}{
		{"tcp", health.TCP, nil, 25},
		{"http", health.HTTP, nil, 100},
		{"net.Dialer", health.TCP, func(t health.Target) (health.Checker, error) { return bare{t}, nil }, 100},
	} {
		b.Run(bc.name, func(b *testing.B) {
			targets := farm(b, health.Spec{Type: bc.typ, Interval: time.Second, Timeout: 3 * time.Second})
			m, stop := monitor(b, health.Options{New: bc.build}, targets)
			defer stop()
			time.Sleep(2 * time.Second) // the first probes all start at once
			used, began := cpu(b), time.Now()
			for b.Loop() {
				time.Sleep(10 * time.Second)
			}
			share := 100 * float64(cpu(b)-used) / float64(time.Since(began))
			for tgt, s := range m.Snapshot() {
				if !s.Up || s.Fails != 0 {
					b.Errorf("%s: %+v", tgt.Real, s)
				}
			}
			if share > bc.most {
				b.Errorf("%.1f %% of a core, want at most %.0f", share, bc.most)
			}
			b.ReportMetric(share, "%core")
			b.ReportMetric(0, "ns/op")
		})
	}
}
