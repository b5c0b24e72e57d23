package progress

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// said is what a watch of a process that read describes has said within some time.
func said(t *testing.T, read func(age time.Duration) (uint64, error), within time.Duration) (when time.Duration, said error) {
	synctest.Test(t, func(*testing.T) {
		began := time.Now()
		stop := watch(func() (uint64, error) { return read(time.Since(began)) }, time.Minute, func(err error) {
			said, when = err, time.Since(began)
		})
		time.Sleep(within)
		stop()
		stop()
	})
	return when, said
}

func TestWhoIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		read func(age time.Duration) (uint64, error)
		want error
		at   time.Duration
	}{
		"works, a tick in 50 s": {func(age time.Duration) (uint64, error) { return uint64(age / (50 * time.Second)), nil }, nil, 0},
		"hangs":                 {func(time.Duration) (uint64, error) { return 7, nil }, ErrIdle, time.Minute},
		"hangs later":           {func(age time.Duration) (uint64, error) { return uint64(min(age, time.Hour)), nil }, ErrIdle, time.Hour + time.Minute},
		"ends": {func(age time.Duration) (uint64, error) {
			if age > time.Second {
				return 0, os.ErrNotExist
			}
			return 7, nil
		}, ErrEnded, time.Second},
		"has ended before": {func(time.Duration) (uint64, error) { return 0, ErrEnded }, ErrEnded, 0},
		"cannot be seen":   {func(time.Duration) (uint64, error) { return 0, os.ErrPermission }, ErrIdle, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			when, err := said(t, c.read, 10*time.Hour)
			if !errors.Is(err, c.want) || when < c.at || when > c.at+time.Second {
				t.Errorf("%v after %v, want %v after %v", err, when, c.want, c.at)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	const used, alone, four = " 1 2 3 4 5 6 7 8 9 10 400 30 0 0 20 0", " 1 0 100", " 4 0 100"
	for text, want := range map[string]struct {
		used uint64
		err  error
	}{
		"7 (lvx) S" + used + four:     {430, nil},
		"7 (a) Z (b) R" + used + four: {430, nil},
		"7 (x) Z" + used + alone:      {0, ErrEnded},
		"7 (x) Z" + used + four:       {430, nil}, // its leader alone is dead
		"7 (x) X" + used + four:       {0, errReplaced},
		"":                            {0, ErrEnded},
		"7 (x) S 1":                   {0, ErrEnded},
	} {
		if got, err := parseStat(text); got != want.used || !errors.Is(err, want.err) {
			t.Errorf("%q: %d, %v, want %d, %v", text, got, err, want.used, want.err)
		}
	}
}

const loseLeader = "PROGRESS_TEST_LOSE_LEADER"

// init, in a process that a test makes, ends the thread that leads it; another one
// goes on until its input ends.
func init() {
	if os.Getenv(loseLeader) == "" {
		return
	}
	runtime.LockOSThread() // init runs in the leader
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0) // of this thread
}

// A process whose leader is a zombie goes on with its other threads, as it does for a
// moment in execve, which a loaded machine makes long.
func TestWatchOfAProcessWithoutItsLeader(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), loseLeader+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stat := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/stat"
	for text := []byte(nil); !strings.Contains(string(text), ") Z "); time.Sleep(time.Millisecond) {
		if text, err = os.ReadFile(stat); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := processorTime(cmd.Process.Pid); err != nil {
		t.Errorf("its leader has ended, it has not: %v", err)
	}
	heard := make(chan error, 1)
	stop := Watch(cmd.Process.Pid, time.Hour, func(err error) { heard <- err })
	defer stop()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; !errors.Is(err, ErrEnded) {
		t.Errorf("%v, want %v", err, ErrEnded)
	}
	_ = cmd.Wait()
}

// A real process, seen from its start to its end; also while nobody has waited
// for it.
func TestWatchOfAProcess(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 1)
	stop := Watch(cmd.Process.Pid, time.Hour, func(err error) { heard <- err })
	defer stop()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; !errors.Is(err, ErrEnded) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v, want %v", err, ErrEnded)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A process that has ended before it is watched is not taken for one that
// cannot be seen.
func TestWatchOfAProcessThatHasEnded(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 1)
	stop := Watch(cmd.Process.Pid, time.Hour, func(err error) { heard <- err })
	defer stop()
	if err := <-heard; !errors.Is(err, ErrEnded) {
		t.Errorf("%v, want %v", err, ErrEnded)
	}
}
