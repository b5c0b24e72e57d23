package testenv

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The Go runtime sends signals to its own threads all the time: a dial that one of
// them meets must not fail by it.
func TestPollingIsNotInterrupted(t *testing.T) {
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	defer writing.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, isOver, ended := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-isOver:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
			}
		}
	}()
	unawaited := []unix.PollFd{{Fd: int32(reading.Fd()), Events: unix.POLLOUT}}
	for interruptions := 0; interruptions < 10 && !t.Failed(); {
		if _, err := unix.Poll(unawaited, 0); err == unix.EINTR {
			interruptions++
		}
		for range 2 {
			if n, err := pollWritable(reading.Fd()); n != 0 || err != nil {
				t.Errorf("the end of a pipe that is read from: %d, %v; want 0 and no error", n, err)
			}
		}
	}
	close(isOver)
	<-ended
}
