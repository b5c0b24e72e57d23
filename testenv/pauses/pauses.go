// Package pauses measures when the processors stood still: a test that bounds
// a time allows what the machine took from everybody, and nothing else. A
// guest whose host is busy loses its processors for hundreds of milliseconds,
// which no priority inside it can prevent.
//
// What it allows is added to the bound. A measurement from which it is taken off
// is no measurement: with more processors than one the pauses can be longer than
// the time in which they were.
//
// The package does not measure how busy the processors were: that lvx was
// late because others worked is for the test to judge.
package pauses

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Pause is a time in which a processor ran nothing of ours.
type Pause struct {
	CPU        int
	Begin, End time.Time
}

const (
	// tick is how often each processor is asked whether it runs.
	tick = 2 * time.Millisecond
	// least is the shortest pause: what is shorter is the kernel's own work.
	least = 5 * time.Millisecond
	// reportEvery is how often a watcher says that it has seen no pause.
	reportEvery = 50 * time.Millisecond
	// priority is above whatever lvx and its peers run with.
	priority = 99
	// watcherEnv makes this program's copy the watcher.
	watcherEnv = "LVX_TEST_WATCHES_PAUSES"
)

// The watcher is a process of its own: in the test's, the Go scheduler would
// delay it as well.
func init() {
	if os.Getenv(watcherEnv) == "" {
		return
	}
	runtime.GOMAXPROCS(runtime.NumCPU() + 2) // a watcher never waits for another goroutine
	if err := watchAll(); err != nil {
		fmt.Fprintln(os.Stderr, "watching the processors:", err)
	}
	os.Exit(1)
}

// Watch knows the pauses since its start.
type Watch struct {
	mu     sync.Mutex
	seen   *sync.Cond
	until  map[int]time.Time // to when each processor is known
	pauses []Pause
	broken error
}

// process is the watch of this test process.
var process = sync.OnceValues(start)

// Start begins to watch, if nobody in this process does already. The watch
// ends with the process.
func Start(t testing.TB) *Watch {
	t.Helper()
	w, err := process()
	if err != nil {
		t.Fatalf("watching the processors: %v", err)
	}
	return w
}

func start() (*Watch, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), watcherEnv+"=1", "GOGC=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w := newWatch()
	// A parent's death signal follows the thread that started the child, so
	// the watcher ends by its broken pipe.
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		w.read(bufio.NewScanner(out))
		w.end(fmt.Errorf("the watcher has ended: %w", cmd.Wait()))
	}()
	return w, nil
}

func newWatch() *Watch {
	w := &Watch{until: map[int]time.Time{}}
	w.seen = sync.NewCond(&w.mu)
	return w
}

// read takes what the watcher writes: a processor, and from when to when it
// was asked in vain; both the same for "it runs".
func (w *Watch) read(lines *bufio.Scanner) {
	for lines.Scan() {
		var cpu int
		var begin, end int64
		if _, err := fmt.Sscan(lines.Text(), &cpu, &begin, &end); err != nil {
			w.end(fmt.Errorf("%q: %w", lines.Text(), err))
			return
		}
		w.note(Pause{cpu, time.Unix(0, begin), time.Unix(0, end)})
	}
}

func (w *Watch) note(p Pause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.End.After(p.Begin) {
		w.pauses = append(w.pauses, p)
	}
	w.until[p.CPU] = p.End
	w.seen.Broadcast()
}

func (w *Watch) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken == nil {
		w.broken = err
	}
	w.seen.Broadcast()
}

// Within is how long a processor stood still between two moments: the sum
// over all processors, for who needs one processor after the other is kept
// by each. It waits until the watcher knows the end.
func (w *Watch) Within(t testing.TB, begin, end time.Time) (sum time.Duration) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.broken == nil && !w.knows(end) {
		w.seen.Wait()
	}
	if w.broken != nil {
		t.Fatalf("watching the processors: %v", w.broken)
	}
	for _, p := range w.pauses {
		first, last := p.Begin, p.End
		if first.Before(begin) {
			first = begin
		}
		if last.After(end) {
			last = end
		}
		sum += max(last.Sub(first), 0)
	}
	if sum > 0 {
		t.Logf("the machine's processors stood still for %s of the %s that were measured", sum.Round(time.Millisecond), end.Sub(begin).Round(time.Millisecond))
	}
	return sum
}

func (w *Watch) knows(end time.Time) bool {
	if len(w.until) < runtime.NumCPU() {
		return false
	}
	for _, until := range w.until {
		if until.Before(end) {
			return false
		}
	}
	return true
}

// watchAll asks every processor that this process may use, and never returns
// without an error.
func watchAll() error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return err
	}
	failed := make(chan error)
	var out sync.Mutex
	for cpu := range len(allowed) * 64 {
		if allowed.IsSet(cpu) {
			go func() { failed <- watch(cpu, &out) }()
		}
	}
	return <-failed
}

func watch(cpu int, out *sync.Mutex) error {
	runtime.LockOSThread()
	var only unix.CPUSet
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return err
	}
	attr := unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: priority}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return err
	}
	say := func(begin, end time.Time) error {
		out.Lock()
		defer out.Unlock()
		_, err := fmt.Println(cpu, begin.UnixNano(), end.UnixNano())
		return err
	}
	last := time.Now()
	said := last
	for {
		pause := unix.NsecToTimespec(int64(tick))
		if err := unix.Nanosleep(&pause, nil); err != nil && err != syscall.EINTR {
			return err
		}
		now := time.Now()
		due := last.Add(tick)
		last = now
		switch {
		case now.Sub(due) >= least:
			if err := say(due, now); err != nil {
				return err
			}
		case now.Sub(said) >= reportEvery:
			if err := say(now, now); err != nil {
				return err
			}
		default:
			continue
		}
		said = now
	}
}
