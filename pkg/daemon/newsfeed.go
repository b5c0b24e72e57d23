package daemon

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// newsFeed tells several parts of a table's news. The table looks for news only
// while somebody wants them.
type newsFeed struct {
	table connsync.Backend

	joining sync.Mutex // whoever joins or leaves; never held while members are notified
	stop    func()
	now     atomic.Pointer[func() bool] // nil: nobody wants news

	mu      sync.Mutex
	members map[*feedMember]bool
}

type feedMember struct{ notify func(*connsync.Batch) }

// join has notify called with news until leave is called. It must not wait.
func (f *newsFeed) join(notify func(*connsync.Batch)) (leave func()) {
	f.joining.Lock()
	defer f.joining.Unlock()
	m := &feedMember{notify}
	f.mu.Lock()
	if f.members == nil {
		f.members = map[*feedMember]bool{}
	}
	f.members[m] = true
	f.mu.Unlock()
	if f.stop == nil {
		now, stop := f.table.TellNews(f.notifyAll)
		f.stop = stop
		f.now.Store(&now)
	}
	return func() { f.leave(m) }
}

func (f *newsFeed) leave(m *feedMember) {
	f.joining.Lock()
	defer f.joining.Unlock()
	f.mu.Lock()
	delete(f.members, m)
	isEmpty := len(f.members) == 0
	f.mu.Unlock()
	if isEmpty && f.stop != nil {
		f.now.Store(nil)
		f.stop()
		f.stop = nil
	}
}

// tellNow tells members at once what is new, and reports whether there is more.
func (f *newsFeed) tellNow() (more bool) {
	now := f.now.Load()
	return now != nil && (*now)()
}

func (f *newsFeed) notifyAll(batch *connsync.Batch) {
	f.mu.Lock()
	members := slices.Collect(maps.Keys(f.members))
	f.mu.Unlock()
	for _, m := range members {
		m.notify(batch)
	}
}
