package director

import (
	"context"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Times of the loop.
const (
	driftInterval = 10 * time.Second // full reconciliation: repairs what others changed
	retryFirst    = 100 * time.Millisecond
	settleTime    = time.Second // that servers have to be found before the VIPs attract traffic
)

func (d *Director) loop(ctx context.Context) error {
	drift := time.NewTicker(driftInterval)
	defer drift.Stop()
	sample := time.NewTicker(lb.RatePeriod)
	defer sample.Stop()
	found := time.NewTimer(settleTime)
	defer found.Stop()
	defer d.retryTimer.Stop()
	defer d.throttleTimer.Stop()
	in := d.inbox()
	for full := true; ; full = false { // full: addresses as well
		if !full {
			select {
			case <-ctx.Done():
				d.sayStops(in)
				return nil
			case call := <-d.calls:
				call(ctx)
				continue
			case <-sample.C:
				d.sampleRates()
				continue
			case _, ok := <-in.health:
				if in.forgetEnded(&in.health, ok); d.isThrottled() {
					continue
				}
			case _, ok := <-in.neigh:
				if !ok {
					in.neigh = nil
				}
				if d.isThrottled() {
					continue
				}
			case <-d.throttleTimer.C:
			case e, ok := <-in.vrrp:
				in.reportRole(d, e, ok)
				continue
			case r := <-d.roles:
				in.takeRole(d, r)
			case <-found.C:
				d.canHoldVIPs = true
			case <-d.retryTimer.C:
				full = true
			case <-drift.C:
				full = true
			}
		}
		if err := d.replan(ctx, in, full); err != nil {
			return err
		}
	}
}

// sayStops notifies of what the end of the loop means: the roles that the
// router gave up before, and the services that ask for it.
func (d *Director) sayStops(in *inbox) {
	for in.vrrp != nil {
		select {
		case e, ok := <-in.vrrp:
			in.reportRole(d, e, ok)
			continue
		default:
		}
		break
	}
	for _, e := range listStops(d.out, time.Now()) {
		d.notify(e)
	}
}

// isThrottled reports whether it is too soon for another turn, and plans one for
// later. Where turns take long, because there are thousands of reals, a storm
// of events must not keep the loop at it all the time: it rests for twice as
// long as its last turn took. Roles and operators do not wait.
func (d *Director) isThrottled() bool {
	wait := time.Until(d.lastTurn.Add(2 * d.lastTurnTook))
	if wait > 0 {
		d.throttleTimer.Reset(wait)
	}
	return wait > 0
}

// replan answers everything that is waiting with one plan. It fails only if
// the VIPs cannot be put on the interface for the first time.
func (d *Director) replan(ctx context.Context, in *inbox, full bool) error {
	began := time.Now()
	defer func() { d.lastTurn, d.lastTurnTook = time.Now(), time.Since(began) }()
	d.throttleTimer.Stop()
	in.takeAll(d)
	d.switchRolesEarly(in)
	// Asked before: a server that is found while the plan is applied is not in it yet.
	areFound := d.opt.Neigh == nil || d.opt.Neigh.Resolved(servers(d.cfg))
	err := d.applyPlan(ctx, func(err error) { in.answerRoles(d, err) })
	d.canHoldVIPs = d.canHoldVIPs || areFound
	select {
	case <-d.ready:
	default:
		if !d.canHoldVIPs {
			break
		}
		if err := d.holdVIPs(d.cfg, d.out.State.VIPs); err != nil {
			return err
		}
		close(d.ready)
		full = false
	}
	if err == nil && full {
		err = d.holdVIPs(d.cfg, d.out.State.VIPs)
	}
	d.serveSilently(full)
	d.recordResult(ctx, err)
	return nil
}

// recordResult takes note of how a turn of the loop ended.
func (d *Director) recordResult(ctx context.Context, err error) {
	switch {
	case err == nil:
		d.recordSuccess()
	case ctx.Err() == nil:
		d.recordFailure(err)
	}
}

// recordFailure remembers why the kernel does not hold the plan and when to try
// again: soon, then less often, never less than the drift pass.
func (d *Director) recordFailure(err error) {
	d.faults++
	d.retryPause = min(max(2*d.retryPause, retryFirst), driftInterval)
	d.retryTimer.Reset(d.retryPause)
	d.fault = err.Error()
	d.warnings.Put(warnings.Warning{
		Kind: "not-applied", Subject: "data path", Text: "state not applied, will be retried: " + d.fault,
		Cure: "see what the error asks for",
	})
}

func (d *Director) recordSuccess() {
	d.warnings.End("not-applied", "data path")
	d.fault, d.retryPause = "", 0
	d.retryTimer.Stop()
}
