package health

import (
	"context"
	"sync"
)

// eventQueue holds one event per target until the listener takes it: adding
// an event never waits, and the latest status wins.
type eventQueue struct {
	mu      sync.Mutex
	order   []Target
	pending map[Target]Event
	filled  chan struct{} // holds one token while something is pending
}

func newEventQueue() *eventQueue {
	return &eventQueue{pending: map[Target]Event{}, filled: make(chan struct{}, 1)}
}

// put adds e, or merges it with an event of the same target that was not
// taken yet.
func (b *eventQueue) put(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if before, ok := b.pending[e.Target]; ok {
		e.Old = before.Old
	} else {
		b.order = append(b.order, e.Target)
	}
	b.pending[e.Target] = e
	select {
	case b.filled <- struct{}{}:
	default:
	}
}

// take removes the oldest event. Events whose change has been undone in the
// meantime are skipped.
func (b *eventQueue) take() (Event, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.order) > 0 {
		e := b.pending[b.order[0]]
		delete(b.pending, b.order[0])
		b.order = b.order[1:]
		if differs(e.New, e.Old) {
			return e, true
		}
	}
	b.order = nil
	return Event{}, false
}

// deliver hands events to out until ctx ends.
func (b *eventQueue) deliver(ctx context.Context, out chan<- Event) {
	for {
		e, ok := b.take()
		if !ok {
			select {
			case <-b.filled:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case out <- e:
		case <-ctx.Done():
			return
		}
	}
}
