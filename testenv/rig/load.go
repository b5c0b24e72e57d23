package rig

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Load is what must not notice: short connections that come one after the
// other, and long ones that are used now and then.
type Load struct {
	stream *Stream
	began  time.Time
	end    func() // the long ones are asked no more
	over   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	asked  int
	broken []string
	cuts   []span // when nobody could be reached

	every    time.Duration
	patience time.Duration
}

// Demand is how much load is asked for.
type Demand struct {
	PerSecond int           // short connections
	Long      int           // long ones, all the time
	Most      int           // short ones in all
	Every     time.Duration // between questions on a long one, which has a last one at the end; 0 is half a second
	Patience  time.Duration // with a question on a long one; 0 is [Patience]
}

// Load puts connections on the VIP until it is stopped.
func (r *Rig) Load(d Demand) (*Load, error) {
	l := &Load{over: make(chan struct{}), every: d.Every, patience: max(d.Patience, Patience)}
	l.end = sync.OnceFunc(func() { close(l.over) })
	r.beforeClose(l.end)
	if l.every == 0 {
		l.every = 500 * time.Millisecond
	}
	for range d.Long {
		conn, err := r.Client.Dial(context.Background(), "tcp", VIP+":80")
		if err != nil {
			l.end()
			l.done.Wait()
			return nil, fmt.Errorf("long connection: %w", err)
		}
		l.done.Go(func() { l.use(conn) })
	}
	l.began = time.Now()
	l.stream = r.Stream("http://"+VIP, time.Second/time.Duration(d.PerSecond), Patience, d.Most)
	return l, nil
}

// use asks on one connection every so often, and once more at the end; each
// answer must come from the same real.
func (l *Load) use(conn net.Conn) {
	defer conn.Close()
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	first := ""
	for isOver := false; ; {
		name, err := askWithin(conn, l.patience)
		if first == "" {
			first = name
		}
		l.mu.Lock()
		l.asked++
		if err != nil || name != first {
			l.broken = append(l.broken, fmt.Sprintf("%s: %s, %v", first, name, err))
			isOver = true
		}
		l.mu.Unlock()
		if isOver {
			return
		}
		select {
		case <-tick.C:
		case <-l.over:
			isOver = true
		}
	}
}

// Await waits until n more short connections have had their answer, or failed.
func (l *Load) Await(ctx context.Context, n int) error {
	begin := l.stream.count()
	return Await(ctx, func() error {
		if now := l.stream.count(); now < begin+n {
			return fmt.Errorf("%d short connections ended, want %d", now-begin, n)
		}
		return nil
	})
}

// Cut does something that keeps the client from everybody for a time, from
// when it is called until what it calls has returned. Short connections that
// were under way in that time may fail, long ones may not.
func (l *Load) Cut(cut func() error) error {
	begin := time.Now()
	err := cut()
	l.cuts = append(l.cuts, span{begin, time.Now()})
	return err
}

// Stop ends the load and says how much there was. It returns an error that
// counts what was lost, and one if there was next to no load.
func (l *Load) Stop() (summary string, err error) {
	took := time.Since(l.began)
	total, all := l.stream.stopAll()
	l.end()
	l.done.Wait()
	failed, excused := l.excuse(all)
	summary = fmt.Sprintf("%d short connections in %v, %.0f a second; %d questions on long ones", total, took.Round(time.Second), float64(total)/took.Seconds(), l.asked)
	if len(l.cuts) > 0 {
		summary += fmt.Sprintf("; %d failed while nobody could be reached", excused)
	}
	if len(failed)+len(l.broken) > 0 {
		return summary, fmt.Errorf("%d of %d short connections failed: %v; %d long ones broke: %v", len(failed), total, few(failed), len(l.broken), few(l.broken))
	}
	if total < 10 || l.asked == 0 {
		return summary, fmt.Errorf("no load: %d short connections, %d questions on long ones", total, l.asked)
	}
	return summary, nil
}

// excuse leaves out what failed because nobody could be reached. Nobody refuses
// a client then: a refusal is never excused.
func (l *Load) excuse(all []loss) (failed []string, excused int) {
	for _, f := range all {
		if f.why == timedOut && slices.ContainsFunc(l.cuts, f.when.overlaps) {
			excused++
			continue
		}
		failed = append(failed, f.why)
	}
	return failed, excused
}

func few(list []string) []string { return list[:min(len(list), 5)] }
