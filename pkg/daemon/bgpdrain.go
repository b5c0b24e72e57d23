package daemon

import (
	"context"
	"time"

	"github.com/lvx-lb/lvx/pkg/bgp"
)

// drain is how a director leaves: routers are asked to prefer others until
// withdrawal, then nothing is announced. The zero value: it does not leave.
type drain struct {
	why        string // for people; "": it does not leave
	withdrawal time.Time
}

func (d drain) isUnderWay(now time.Time) bool { return d.why != "" && now.Before(d.withdrawal) }

// reason is why nothing is announced any more; "": it may be.
func (d drain) reason(now time.Time) string {
	if now.Before(d.withdrawal) {
		return ""
	}
	return d.why
}

// next is when the routes have to be looked at again, at the latest.
func (d drain) next(now time.Time) time.Duration {
	if d.isUnderWay(now) {
		return min(d.withdrawal.Sub(now), routesLook)
	}
	return routesLook
}

// Reasons of a director that announces nothing.
const (
	drainedByOperator = "drained by an operator (lvx drain --director --undo)"
	drainedToStop     = "the daemon stops"
)

// Drain implements [director.Routes].
func (r *routes) Drain(isDrained bool) {
	if isDrained {
		r.beginDrain(drainedByOperator)
		return
	}
	r.mu.Lock()
	if !r.isLeaving { // else it is a matter of the next daemon
		r.drain = drain{}
	}
	r.mu.Unlock()
	r.wake()
}

// beginDrain starts a drain that is not under way yet, and returns how long it
// takes: no time where nothing is announced.
func (r *routes) beginDrain(why string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.drain.why == "" {
		r.drain = drain{why, now}
		if len(bgp.Routes(r.status.VIPs)) > 0 {
			r.drain.withdrawal = now.Add(r.cfg.DrainTime)
			r.log.Info("routers are asked to prefer other directors", "drain_time", r.cfg.DrainTime)
		}
		r.wake()
	}
	return max(r.drain.withdrawal.Sub(now), 0)
}

// leave drains for a stop. The data path must serve until it returns: then
// withdrawals have reached everybody.
func (r *routes) leave(ctx context.Context) {
	r.mu.Lock()
	r.isLeaving = true
	r.mu.Unlock()
	wait := r.beginDrain(drainedToStop)
	r.mu.Lock()
	isOver := len(bgp.Routes(r.status.VIPs)) == 0
	r.mu.Unlock()
	if isOver {
		return
	}
	sleep(ctx, wait)
	r.settle(ctx)
	sleep(ctx, withdrawWait)
}

// settle waits, for a time, until the withdrawal that is due has been said.
func (r *routes) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for ctx.Err() == nil {
		r.mu.Lock()
		a, isOver := r.speaker, len(bgp.Routes(r.status.VIPs)) == 0
		r.mu.Unlock()
		if isOver {
			if a != nil {
				a.Settle(ctx)
			}
			return
		}
		sleep(ctx, 5*time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
