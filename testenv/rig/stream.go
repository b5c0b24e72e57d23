package rig

import (
	"sync"
	"time"
)

// Stream is a stream of requests, one every so often, each on a connection
// of its own.
type Stream struct {
	end    func() // it asks no more
	over   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	total  int
	failed []loss
}

// span is a time from one moment to another.
type span struct{ from, to time.Time }

func (s span) overlaps(o span) bool { return s.from.Before(o.to) && o.from.Before(s.to) }

// loss is a request that failed.
type loss struct {
	when span
	why  string
}

// Stream asks for a URL every interval until it is stopped, at most limit
// times. A request counts as lost when it is not answered within timeout.
func (r *Rig) Stream(url string, interval, timeout time.Duration, limit int) *Stream {
	s := &Stream{over: make(chan struct{})}
	s.end = sync.OnceFunc(func() { close(s.over) })
	r.beforeClose(s.end)
	s.done.Go(func() {
		began := time.Now() // a ticker would drop what comes too late
		for n := range limit {
			s.done.Go(func() {
				begin := time.Now()
				_, err := r.Get(url, timeout)
				s.note(begin, err)
			})
			select {
			case <-s.over:
				return
			case <-time.After(time.Until(began.Add(time.Duration(n+1) * interval))):
			}
		}
	})
	return s
}

func (s *Stream) note(begin time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total++
	if err != nil {
		s.failed = append(s.failed, loss{span{begin, time.Now()}, Brief(err)})
	}
}

func (s *Stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Stop ends the stream and returns how many requests there were, and how those
// that were lost failed.
func (s *Stream) Stop() (total int, failed []string) {
	total, losses := s.stopAll()
	for _, f := range losses {
		failed = append(failed, f.why)
	}
	return total, failed
}

func (s *Stream) stopAll() (total int, failed []loss) {
	s.end()
	s.done.Wait()
	return s.total, s.failed
}
