package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bounds of what does not end.
const (
	outlast     = 2 * grace // that something may take to end once it has to
	maxUnending = 16        // of one name; no more are begun then
)

// ErrUnending is in the chain of the error of what is not begun for what does not end. It
// says nothing of what would have come of it.
var ErrUnending = errors.New("earlier ones have not ended (does a disk hang?)")

// unending counts by name what was given up and has not ended yet.
var unending = struct {
	sync.Mutex
	of map[string]int
}{of: map[string]int{}}

// Bounded calls f, and gives it up with the error of ctx if it does not end soon after
// ctx: what waits for a disk that hangs can neither be broken off nor killed. What f
// returns later is dropped. Too many of one name are [ErrUnending] until they end.
func Bounded[T any](ctx context.Context, name string, f func() (T, error)) (T, error) {
	var none T
	unending.Lock()
	n := unending.of[name]
	unending.Unlock()
	if n >= maxUnending {
		return none, fmt.Errorf("%s: %d %w", Text(name), n, ErrUnending)
	}
	type result struct {
		value T
		err   error
	}
	ended := make(chan result, 1)
	go func() {
		v, err := f()
		ended <- result{v, err}
	}()
	select {
	case r := <-ended:
		return r.value, r.err
	case <-ctx.Done():
	}
	last := time.NewTimer(outlast)
	defer last.Stop()
	select {
	case r := <-ended:
		return r.value, r.err
	case <-last.C:
	}
	countUnending(name, 1)
	go func() {
		<-ended
		countUnending(name, -1)
	}()
	return none, ctx.Err()
}

func countUnending(name string, change int) {
	unending.Lock()
	defer unending.Unlock()
	unending.of[name] += change
	if unending.of[name] == 0 {
		delete(unending.of, name)
	}
}
