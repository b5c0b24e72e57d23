package guard_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// hangingDisk mounts a file system that answers nothing: what reads from it cannot be
// killed. At the end of the test it fails all that waits.
func hangingDisk(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("this kernel has no FUSE: ", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("hanging", dir, "fuse", 0, options); err != nil {
		unix.Close(fd)
		t.Skip("this kernel does not mount FUSE: ", err)
	}
	request := make([]byte, 64<<10)
	if _, err := unix.Read(fd, request); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 16+64) // fuse_out_header and fuse_init_out of include/uapi/linux/fuse.h
	binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
	copy(answer[8:16], request[8:16]) // unique
	binary.NativeEndian.PutUint32(answer[16:], 7)
	binary.NativeEndian.PutUint32(answer[20:], 31)
	binary.NativeEndian.PutUint32(answer[36:], 4096) // max_write
	if _, err := unix.Write(fd, answer); err != nil {
		t.Fatal(err)
	}
	taken := make(chan struct{})
	go func() { // a request that has been taken is waited for, whatever the signal
		defer close(taken)
		for {
			if _, err := unix.Read(fd, request); err != nil && err != unix.EINTR && err != unix.ENOENT {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE)
		<-taken
		unix.Close(fd)
	})
	return dir
}

// What hangs in the kernel, and cannot be killed, does not hold up who has run it.
func TestWhatHangsInTheKernelIsGivenUp(t *testing.T) {
	file := hangingDisk(t) + "/file"
	var all sync.WaitGroup
	for what, f := range map[string]func(ctx context.Context) error{
		"a program that reads": func(ctx context.Context) error {
			_, err := guard.Program{Argv: []string{"/bin/cat", file}}.Run(ctx)
			return err
		},
		"a program that is there": func(ctx context.Context) error {
			_, err := guard.Program{Argv: []string{file}}.Run(ctx)
			return err
		},
		"a number": func(ctx context.Context) error {
			_, err := guard.ReadNumber(ctx, file)
			return err
		},
	} {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	all.Wait()
}

// Of what does not end only so many are begun, until they end.
func TestBoundedCountsWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var begun atomic.Int32
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := guard.Bounded(ctx, "/bin/x", func() (int, error) { begun.Add(1); <-release; return 7, nil })
			return err
		}
		for range 16 {
			if began, err := time.Now(), call(); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 4*time.Second {
				t.Fatalf("%v after %v", err, time.Since(began))
			}
		}
		if began, err := time.Now(), call(); err == nil || errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 0 || begun.Load() != 16 {
			t.Errorf("%v after %v, %d were begun", err, time.Since(began), begun.Load())
		}
		close(release)
		synctest.Wait()
		if err := call(); err != nil {
			t.Errorf("after they have ended: %v", err)
		}
	})
}
