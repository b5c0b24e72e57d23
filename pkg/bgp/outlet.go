package bgp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Times of a hook.
const (
	hookPatience = 10 * time.Second       // with one run of the program
	hookRefresh  = time.Minute            // between runs when nothing changes
	firstRetry   = 500 * time.Millisecond // after a failure; then twice as long each time
	longestRetry = 30 * time.Second
)

// outlet is who is told the latest set.
type outlet struct {
	name    string
	say     func(ctx context.Context, routes string) error
	refresh time.Duration // 0: never

	wake chan struct{}

	mu     sync.Mutex
	wanted *string // nil: nothing has been set
	said   *string
	since  time.Time // when it was said last
	why    string    // why it was not
}

// run says what is wanted until ctx ends.
func (o *outlet) run(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		text, isDue := o.take()
		if !isDue {
			o.await(ctx, o.refresh)
			continue
		}
		run, cancel := context.WithTimeout(ctx, hookPatience)
		err := o.say(run, text)
		if errors.Is(run.Err(), context.DeadlineExceeded) && err != nil {
			err = fmt.Errorf("not done within %s", hookPatience)
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		o.note(text, err)
		if err != nil {
			o.await(ctx, retry)
			retry = min(2*retry, longestRetry)
			continue
		}
		retry = firstRetry
	}
}

// await waits until something else is wanted; 0 is for as long as that takes.
func (o *outlet) await(ctx context.Context, atMost time.Duration) {
	var later <-chan time.Time
	if atMost > 0 {
		later = time.After(atMost)
	}
	select {
	case <-o.wake:
	case <-later:
	case <-ctx.Done():
	}
}

func (o *outlet) set(text string) {
	o.mu.Lock()
	isNew := o.wanted == nil || *o.wanted != text
	o.wanted = &text
	o.mu.Unlock()
	if isNew {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// take is what has to be said now.
func (o *outlet) take() (text string, isDue bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wanted == nil {
		return "", false
	}
	isOld := o.refresh > 0 && time.Since(o.since) >= o.refresh
	return *o.wanted, isOld || o.said == nil || *o.said != *o.wanted
}

func (o *outlet) note(text string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.said, o.why = nil, err.Error() // it may have done a part
		return
	}
	o.said, o.since, o.why = &text, time.Now(), ""
}

func (o *outlet) isCurrent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wanted == nil || o.said != nil && *o.said == *o.wanted
}

func (o *outlet) status() HookStatus {
	isCurrent := o.isCurrent()
	o.mu.Lock()
	defer o.mu.Unlock()
	return HookStatus{Name: o.name, IsCurrent: isCurrent, Since: o.since, Reason: o.why}
}
