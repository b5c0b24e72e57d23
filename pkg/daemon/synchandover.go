package daemon

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Times of a handover: how long this host waits at most until the other
// directors have the latest connections, before it gives VIPs up because another
// one takes over, and before and after a daemon that stops does; how often it
// tells what is new in between; and how long a host that takes VIPs over expects to
// be told so: what a client repeats after 200 ms and after 600 is held by then, too.
const (
	yieldTime   = 50 * time.Millisecond
	newsTime    = time.Second
	leaveTime   = 2 * time.Second
	leavingNews = 10 * time.Millisecond
)

// takeOver notes that this host is master of an instance, before its VIPs are here. A
// segment of one of the latest connections may come before the news of that connection:
// the kernel would answer with a reset, and does so where nobody can tell any more.
func (s *connSync) takeOver(instance string) {
	if m := s.mesh.Load(); m != nil && m.HasSession() && !s.isMasterOf(instance) {
		if err := s.table.ExpectNews(newsTime); err != nil {
			s.log.Warn("the latest connections of the director before are not waited for", "component", "sync", "err", err)
		}
	}
	s.setRole(instance, true)
}

// giveUp notes that this host is master of an instance no more, now that its VIPs are
// gone, and tells what came last.
func (s *connSync) giveUp(instance string) {
	if s.isMasterOf(instance) {
		s.flush(yieldTime)
	}
	s.setRole(instance, false)
}

// flush tells the other directors what is new, and waits until they have it, at
// most for limit. Those who ask while it is under way share the next one.
func (s *connSync) flush(limit time.Duration) {
	asked := time.Now()
	s.flushing.Lock()
	defer s.flushing.Unlock()
	if s.flushed.After(asked) {
		return
	}
	s.flushed = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for hasMore := true; hasMore && ctx.Err() == nil; {
		hasMore = s.feed.tellNow()
		if err := s.flushPeers(ctx); err != nil {
			s.log.Warn("VIPs are handed over without the latest connections", "component", "sync", "err", err)
			return
		}
	}
}

// flushPeers waits until the other directors have what they were told.
func (s *connSync) flushPeers(ctx context.Context) error {
	var g errgroup.Group
	if m := s.mesh.Load(); m != nil {
		g.Go(func() error { return m.Flush(ctx) })
	}
	if s.wire != nil && s.isMaster() {
		g.Go(func() error { return s.wire.Flush(ctx) })
	}
	return g.Wait()
}

// leave tells the other directors of everything now, and of what comes at once
// until end is called, which tells the last. Each waits at most for limit.
func (s *connSync) leave(limit time.Duration) (end func()) {
	s.flush(limit)
	ctx, cancel := context.WithCancel(context.Background())
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(leavingNews)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.feed.tellNow()
				if s.wire != nil { // a datagram would wait until it is full
					_ = s.wire.Flush(ctx)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		telling.Wait()
		s.flush(limit)
	}
}
