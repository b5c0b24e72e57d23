package jsonfile

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// Times of a [Keeper].
const (
	retryPause = 10 * time.Second // after a write that failed
	slowAfter  = 5 * time.Second  // a write that takes longer is reported
)

// Keeper writes the latest value of a file from a goroutine of its own:
// nobody who changes the value waits for a disk, however long the disk takes.
// A write that fails or does not come back is reported and tried again with
// whatever the value is by then.
type Keeper struct {
	path   string
	perm   fs.FileMode
	report func(error)

	mu      sync.Mutex
	value   []byte // nil: no file
	version uint64 // of value
	stored  uint64 // the version that the disk has
	changed chan struct{}
	stores  chan struct{} // closed and replaced when stored moves

	replace func(path string, b []byte, perm fs.FileMode) error // for tests
}

// NewKeeper makes a Keeper of a file. It calls report with an error when
// values do not reach the disk, and with nil when they do again; report must
// not wait for anything. [Keeper.Run] does the writing.
func NewKeeper(path string, perm fs.FileMode, report func(error)) *Keeper {
	return &Keeper{
		path: path, perm: perm, report: report, replace: Replace,
		changed: make(chan struct{}, 1), stores: make(chan struct{}),
	}
}

// Put makes v the value that the file is to have. It does not wait.
func (k *Keeper) Put(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	k.put(append(b, '\n'))
	return nil
}

// Clear lets the file be removed. It does not wait.
func (k *Keeper) Clear() { k.put(nil) }

func (k *Keeper) put(b []byte) {
	k.mu.Lock()
	k.value = b
	k.version++
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default: // a write is due already and takes the latest value
	}
}

// Wait returns when the file has the value that was put last, or with an
// error when ctx ends before.
func (k *Keeper) Wait(ctx context.Context) error {
	k.mu.Lock()
	want := k.version
	k.mu.Unlock()
	for {
		k.mu.Lock()
		done, moved := k.stored >= want, k.stores
		k.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%s is not written yet: %w", k.path, ctx.Err())
		}
	}
}

// Run writes values until ctx ends, and then the last one, if the disk takes
// it within grace. It returns nil.
func (k *Keeper) Run(ctx context.Context, grace time.Duration) error {
	finished := make(chan struct{})
	stop := make(chan struct{})
	go func() { // may hang in a system call for ever
		defer close(finished)
		k.write(stop)
	}()
	<-ctx.Done()
	close(stop)
	end := time.NewTimer(grace)
	defer end.Stop()
	select {
	case <-finished:
	case <-end.C:
	}
	return nil
}

// write writes what is put until stop is closed, and what is left then once.
func (k *Keeper) write(stop <-chan struct{}) {
	failing := false
	for {
		var retry <-chan time.Time
		var pause *time.Timer
		if failing {
			pause = time.NewTimer(retryPause)
			retry = pause.C
		}
		last := false
		select {
		case <-k.changed:
		case <-retry:
		case <-stop:
			last = true
		}
		if pause != nil {
			pause.Stop()
		}
		failing = k.store(failing) != nil
		if last {
			return
		}
	}
}

// store writes the latest value if the disk does not have it.
func (k *Keeper) store(failed bool) error {
	k.mu.Lock()
	b, version, done := k.value, k.version, k.stored
	k.mu.Unlock()
	if version == done {
		return nil
	}
	slow := time.AfterFunc(slowAfter, func() {
		k.report(fmt.Errorf("%s: the disk has not taken it for %v", k.path, slowAfter))
	})
	var err error
	switch {
	case b == nil:
		err = Remove(k.path)
	case len(b) > MaxSize: // it would not be read again
		err = fmt.Errorf("%s: %d bytes (at most %d)", k.path, len(b), MaxSize)
	default:
		err = k.replace(k.path, b, k.perm)
	}
	late := !slow.Stop()
	if err != nil {
		k.report(err)
		return err
	}
	if failed || late {
		k.report(nil)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stored = version
	close(k.stores)
	k.stores = make(chan struct{})
	return nil
}
