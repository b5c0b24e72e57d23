// Package progress knows a process that works, however slowly, from one that
// hangs: by the processor time that it has used. A limit in the clock's time
// would end work that a loaded machine has no time for.
//
// It watches and says; it ends nothing.
package progress

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Why a process is not waited for any longer.
var (
	ErrEnded = errors.New("it has ended")
	ErrIdle  = errors.New("it hangs")
)

// pace is how often a process is looked at.
const pace = 250 * time.Millisecond

// Watch calls report once if the process of a number ends, or uses no processor time for
// as long as idle. Where it cannot be seen, idle is how long it is waited for.
// stop ends the watch; afterwards report is not called any more.
func Watch(pid int, idle time.Duration, report func(error)) (stop func()) {
	return watch(func() (uint64, error) { return processorTime(pid) }, idle, report)
}

func watch(read func() (uint64, error), idle time.Duration, report func(error)) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := await(read, idle, done); err != nil {
			report(err)
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		ended.Wait()
	})
}

// await returns nil when done is closed.
func await(read func() (uint64, error), idle time.Duration, done <-chan struct{}) error {
	last, first := read()
	if errors.Is(first, ErrEnded) {
		return ErrEnded
	}
	changed := time.Now()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
		now, err := read()
		switch {
		case errors.Is(err, ErrEnded), err != nil && first == nil:
			return ErrEnded
		case err == nil && now != last:
			last, changed = now, time.Now()
		case time.Since(changed) > idle:
			return fmt.Errorf("%w: no progress for %v", ErrIdle, idle)
		}
	}
}

// processorTime is what all threads of a process have used, in ticks. A process
// that has ended and that nobody has waited for is none.
func processorTime(pid int) (uint64, error) {
	for {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) { // not merely hidden (proc(5), hidepid)
			return 0, ErrEnded
		}
		if err != nil {
			return 0, err
		}
		if used, err := parseStat(string(text)); !errors.Is(err, errReplaced) {
			return used, err
		}
	}
}

// errReplaced is said of a thread that is dead and gone: whoever has its number now
// is another one, or nobody has.
var errReplaced = errors.New("the thread is being replaced")

// parseStat reads /proc/PID/stat (proc_pid_stat(5)). It tells of the thread that leads the
// process: this one is a zombie while others go on, and in execve, where the thread
// that calls it waits for the end of all others and then takes the leader's number
// (fs/exec.c: de_thread).
func parseStat(text string) (uint64, error) {
	const state, user, system, threads = 0, 11, 12, 17 // behind the name, which may hold anything
	_, rest, _ := cutLast(text, ") ")
	fields := strings.Fields(rest)
	switch {
	case len(fields) <= threads:
		return 0, ErrEnded
	case fields[state] == "X":
		return 0, errReplaced
	case fields[state] == "Z" && fields[threads] == "1":
		return 0, ErrEnded
	}
	u, err1 := strconv.ParseUint(fields[user], 10, 64)
	s, err2 := strconv.ParseUint(fields[system], 10, 64)
	return u + s, errors.Join(err1, err2)
}

// cutLast cuts at the last place where sep is.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
