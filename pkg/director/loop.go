package director

import (
	"context"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
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
	defer d.retry.Stop()
	defer d.rest.Stop()
	in := d.inbox()
	for full := true; ; full = false { // full: addresses as well
		if !full {
			select {
			case <-ctx.Done():
				return nil
			case call := <-d.calls:
				call(ctx)
				continue
			case <-sample.C:
				d.sample()
				continue
			case _, ok := <-in.health:
				if in.ended(&in.health, ok); d.tired() {
					continue
				}
			case _, ok := <-in.neigh:
				if !ok {
					in.neigh = nil
				}
				if d.tired() {
					continue
				}
			case <-d.rest.C:
			case e, ok := <-in.vrrp:
				in.transition(d, e, ok)
				continue
			case r := <-d.roles:
				in.take(d, r)
			case <-found.C:
				d.settled = true
			case <-d.retry.C:
				full = true
			case <-drift.C:
				full = true
			}
		}
		if err := d.turn(ctx, in, full); err != nil {
			return err
		}
	}
}

// tired reports whether it is too soon for another turn, and plans one for
// later. Where turns take long, because there are thousands of reals, a storm
// of events must not keep the loop at it all the time: it rests for twice as
// long as its last turn took. Roles and operators do not wait.
func (d *Director) tired() bool {
	wait := time.Until(d.lastTurn.Add(2 * d.tookLast))
	if wait > 0 {
		d.rest.Reset(wait)
	}
	return wait > 0
}

// turn answers everything that is waiting with one plan. It fails only if
// the VIPs cannot be put on the interface for the first time.
func (d *Director) turn(ctx context.Context, in *inbox, full bool) error {
	began := time.Now()
	defer func() { d.lastTurn, d.tookLast = time.Now(), time.Since(began) }()
	d.rest.Stop()
	in.drain(d)
	d.hasten(in)
	err := d.sync(ctx, func(err error) { in.reply(d, err) })
	d.settled = d.settled || d.opt.Neigh == nil || d.opt.Neigh.Resolved(servers(d.cfg))
	select {
	case <-d.ready:
	default:
		if !d.settled {
			break
		}
		if err := d.hold(d.cfg, d.out.State.VIPs); err != nil {
			return err
		}
		close(d.ready)
		full = false
	}
	if err == nil && full {
		err = d.hold(d.cfg, d.out.State.VIPs)
	}
	d.serveSilently(full)
	d.settle(ctx, err)
	return nil
}

// settle takes note of how a turn of the loop ended.
func (d *Director) settle(ctx context.Context, err error) {
	switch {
	case err == nil:
		d.succeeded()
	case ctx.Err() == nil:
		d.failed(err)
	}
}

// failed remembers why the kernel does not hold the plan and when to try
// again: soon, then less often, never less than the drift pass.
func (d *Director) failed(err error) {
	d.faults++
	d.pause = min(max(2*d.pause, retryFirst), driftInterval)
	d.retry.Reset(d.pause)
	if d.fault != err.Error() {
		d.fault = err.Error()
		d.log.Error("state not applied, will be retried", "err", err)
	}
}

func (d *Director) succeeded() {
	if d.fault != "" {
		d.log.Info("state applied again")
	}
	d.fault, d.pause = "", 0
	d.retry.Stop()
}
