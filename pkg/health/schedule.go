package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// startDue starts every probe that is due and returns the time until the next
// one is.
func (m *Monitor) startDue(ctx context.Context, workers *sync.WaitGroup) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.start)
	for len(m.agenda) > 0 && m.agenda[0].due <= now {
		p := m.agenda.pop()
		if p.slots.free == 0 {
			p.slots.waiting = append(p.slots.waiting, p)
			continue
		}
		p.slots.free--
		p.running = true
		workers.Go(func() { m.runProbe(ctx, p) })
	}
	m.wakeAt = now + idleWait
	if len(m.agenda) > 0 {
		m.wakeAt = m.agenda[0].due
	}
	return m.wakeAt - now
}

// runProbe asks p, and then the probes that wait for p's place.
func (m *Monitor) runProbe(ctx context.Context, p *probe) {
	for p != nil {
		began := time.Now()
		asking, stop := context.WithCancel(ctx)
		m.mu.Lock()
		p.stop = stop
		m.mu.Unlock()
		err := p.checker.Check(asking)
		if asking.Err() == nil {
			err = m.excuseOwnFailure(p, err)
		}
		stop()
		p = m.finishProbe(ctx, p, began, err)
	}
}

// excuseOwnFailure takes a failure back that is this host's own. What was not
// asked of the real, or is not concluded from silence, needs no way to it.
func (m *Monitor) excuseOwnFailure(p *probe, err error) error {
	if err == nil || errors.Is(err, ErrNotAsked) || p.spec.Type == File {
		return err
	}
	if p.spec.Type == BFD && !errors.Is(err, ErrSilent) {
		return err
	}
	m.opts.OnFailure(p.target.Real)
	if why := m.opts.CannotAsk(p.target.Real); why != nil {
		return fmt.Errorf("%w: %w", ErrNotAsked, why)
	}
	return err
}

// finishProbe enters a result, puts p on the agenda again and returns the next
// probe that waits for p's place, if any.
func (m *Monitor) finishProbe(ctx context.Context, p *probe, began time.Time, err error) *probe {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.running, p.stop = false, nil
	anew := p.anew
	p.anew = false
	switch {
	case p.removed:
		closeChecker(p.checker)
	case ctx.Err() != nil: // the check was broken off
	case anew && err != nil:
		p.due = time.Since(m.start)
		m.addToAgenda(p)
	default:
		m.enterResult(p, began, err)
		m.schedule(p, p.nextStart(began.Sub(m.start), err, rand.Float64()))
		close(m.answered)
		m.answered = make(chan struct{})
	}
	if len(p.slots.waiting) > 0 && ctx.Err() == nil {
		q := p.slots.waiting[0]
		p.slots.waiting = p.slots.waiting[1:]
		q.running = true
		return q
	}
	p.slots.free++
	return nil
}

// enterResult puts a result into p's record, and lets the listener and the log
// know what it changes.
func (m *Monitor) enterResult(p *probe, began time.Time, err error) {
	now := time.Now()
	before := p.record.Status
	changed := p.record.addResult(now, now.Sub(began), err)
	if w := weightOf(p.checker); err == nil && w != p.record.Weight {
		p.record.Weight, changed = w, true
	}
	if !changed {
		return
	}
	after := p.record.Status
	m.pendingEvents.put(Event{Target: p.target, Old: before, New: after})
	if after.NotAsked == before.NotAsked {
		return
	}
	attrs := []any{"real", p.target.Real, "check", string(p.target.Spec.Type)}
	if p.target.Port != 0 {
		attrs = append(attrs, "port", p.target.Port)
	}
	if after.NotAsked {
		m.log.Warn("check cannot be asked, the real stays as it was", append(attrs, "reason", after.Reason)...)
	} else {
		m.log.Info("check is asked again", attrs...)
	}
}

// AskNow has every check of a real asked at once, also one that is on its way:
// the real has just become reachable.
func (m *Monitor) AskNow(real netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.start)
	for p := range m.byReal[real] {
		switch {
		case p.running:
			p.anew = true
			if p.stop != nil {
				p.stop()
			}
		case p.index >= 0:
			m.agenda.remove(p)
			p.due = now
			m.addToAgenda(p)
		}
	}
}

// AwaitVerdicts waits until every target has been asked, to its end, since a
// moment, or has had the time of its timeout, or until ctx ends.
func (m *Monitor) AwaitVerdicts(ctx context.Context, since time.Time) {
	for {
		until, next := m.openQuestions(since)
		if until.IsZero() {
			return
		}
		select {
		case <-next:
		case <-time.After(time.Until(until)):
		case <-ctx.Done():
			return
		}
	}
}

// openQuestions is when the last target that owes an answer since a moment
// has had its time, zero if none owes one; next is closed with the next
// answer.
func (m *Monitor) openQuestions(since time.Time) (until time.Time, next <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.probes {
		end := since.Add(p.spec.Timeout)
		if p.record.Last.Before(since) && time.Now().Before(end) && end.After(until) {
			until = end
		}
	}
	return until, m.answered
}

// nextStart is when p is to start again after a probe that began at the given
// time. Jitter only shortens the interval, so that the time until a dead
// real is down has a bound: fall intervals and a timeout. After the first
// probe, which all targets start with at once, they spread over the
// interval.
func (p *probe) nextStart(began time.Duration, err error, random float64) time.Duration {
	interval := p.spec.Interval
	share := 1 - p.spec.Jitter*random
	switch {
	case err != nil:
		interval = p.spec.RetryDelay
	case p.first:
		share = 1 - random
	}
	p.first = false
	return began + time.Duration(float64(interval)*share)
}

// schedule puts p on the agenda, at the tick before due, but not in the
// past.
func (m *Monitor) schedule(p *probe, due time.Duration) {
	now := time.Since(m.start)
	p.due = max(due.Truncate(probeGrid), (now + probeGrid).Truncate(probeGrid))
	m.addToAgenda(p)
}

func (m *Monitor) addToAgenda(p *probe) {
	m.agenda.push(p)
	if m.agenda[0].due < m.wakeAt {
		m.wakeAt = m.agenda[0].due
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}
