package jsonfile

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// disk stands in for the file system.
type disk struct {
	took []string
	fail error
	hang chan struct{} // nil: it answers at once
}

func (d *disk) replace(_ string, b []byte, _ fs.FileMode) error {
	if d.hang != nil {
		<-d.hang
	}
	if d.fail != nil {
		return d.fail
	}
	d.took = append(d.took, string(b))
	return nil
}

func start(t *testing.T, d *disk) (k *Keeper, said *[]error, stop func()) {
	t.Helper()
	said = new([]error)
	k = NewKeeper("/notes.json", 0o600, func(err error) { *said = append(*said, err) })
	k.replace = d.replace
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = k.Run(ctx, time.Second) }()
	return k, said, func() { cancel(); <-done }
}

func put(t *testing.T, k *Keeper, v any) {
	t.Helper()
	if err := k.Put(v); err != nil {
		t.Fatal(err)
	}
}

func TestKeeperWritesTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{hang: make(chan struct{})}
		k, said, stop := start(t, d)
		put(t, k, 1)
		synctest.Wait() // the first is under way
		put(t, k, 2)
		put(t, k, 3)
		close(d.hang)
		if err := k.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		put(t, k, 4)
		stop()
		if got := len(d.took); got != 3 || d.took[1] != "3\n" || d.took[2] != "4\n" {
			t.Errorf("the disk took %q", d.took)
		}
		if len(*said) != 0 {
			t.Errorf("reported %v", *said)
		}
	})
}

// A disk that hangs holds up nobody, is reported, and is heard of when it is
// back.
func TestKeeperAtADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{hang: make(chan struct{})}
		k, said, stop := start(t, d)
		begin := time.Now()
		put(t, k, 1)
		synctest.Wait()
		put(t, k, 2)
		if took := time.Since(begin); took != 0 {
			t.Errorf("Put waited %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := k.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait: %v", err)
		}
		synctest.Wait()
		if len(*said) != 1 || (*said)[0] == nil {
			t.Fatalf("reported %v", *said)
		}
		stop() // returns, although the disk does not
		close(d.hang)
		synctest.Wait()
		if len(*said) != 2 || (*said)[1] != nil {
			t.Errorf("reported %v", *said)
		}
	})
}

func TestKeeperTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{fail: errors.New("no space left")}
		k, said, stop := start(t, d)
		defer stop()
		put(t, k, 1)
		time.Sleep(3*retryPause + time.Second)
		synctest.Wait()
		if len(*said) != 4 {
			t.Errorf("reported %v", *said)
		}
		d.fail = nil
		begin := time.Now()
		if err := k.Wait(t.Context()); err != nil || time.Since(begin) > retryPause {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		synctest.Wait()
		if last := (*said)[len(*said)-1]; last != nil || len(d.took) != 1 {
			t.Errorf("reported %v at last, the disk took %q", last, d.took)
		}
	})
}

func TestKeeperOnARealDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.json")
	k := NewKeeper(path, 0o600, func(err error) { t.Errorf("reported %v", err) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = k.Run(ctx, time.Minute) }()
	put(t, k, []int{1, 2})
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []int
	if err := Read(path, &got); err != nil || len(got) != 2 {
		t.Errorf("read %v, %v", got, err)
	}
	k.Clear()
	cancel()
	<-done
	if err := Read(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cleared: %v", err)
	}
}
