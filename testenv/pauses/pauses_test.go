package pauses

import (
	"bufio"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A processor that somebody holds at the watcher's own priority stands still
// for the watcher, as it does for everybody when the machine's host takes it.
func TestHeldProcessorIsAPause(t *testing.T) {
	const held = 100 * time.Millisecond
	w := Start(t)
	begin := time.Now()
	w.Within(t, begin, time.Now()) // the watcher runs
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var allowed, only unix.CPUSet
		if err := unix.SchedGetaffinity(0, &allowed); err != nil {
			done <- err
			return
		}
		for cpu := range len(allowed) * 64 {
			if allowed.IsSet(cpu) {
				only.Set(cpu)
				break
			}
		}
		if err := unix.SchedSetaffinity(0, &only); err != nil {
			done <- err
			return
		}
		attr := unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: priority}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			done <- err
			return
		}
		for start := time.Now(); time.Since(start) < held; {
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	end := time.Now()
	if got := w.Within(t, begin, end); got < held/2 {
		t.Errorf("a processor held for %s: pauses of %s", held, got)
	}
}

func TestWithinSumsWhatOverlaps(t *testing.T) {
	w := newWatch()
	at := func(ms int64) time.Time { return time.Unix(0, ms*1e6) }
	w.read(bufio.NewScanner(strings.NewReader("0 10000000 30000000\n1 20000000 40000000\n0 90000000 90000000\n")))
	for cpu := range runtime.NumCPU() { // all are known to 100 ms
		w.note(Pause{cpu, at(100), at(100)})
	}
	for _, c := range []struct{ begin, end, want int64 }{{0, 100, 40}, {15, 25, 15}, {30, 35, 5}, {40, 90, 0}, {0, 5, 0}} {
		if got := w.Within(t, at(c.begin), at(c.end)); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("%d to %d ms: %s, want %d ms", c.begin, c.end, got, c.want)
		}
	}
}
