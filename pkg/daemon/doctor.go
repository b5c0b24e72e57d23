package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/doctor"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// doctorPause is the time between two examinations: each asks the segment
// about every VIP and every real.
const doctorPause = 3 * time.Minute

// examRequests are requests for an examination now.
type examRequests struct {
	asked chan chan<- struct{} // each is closed when an examination that began later is over
	ended chan struct{}        // closed when nobody examines any more
}

func newExamRequests() *examRequests {
	return &examRequests{asked: make(chan chan<- struct{}), ended: make(chan struct{})}
}

var errNotExamining = errors.New("lvx is about to end")

// ask has the classic mistakes looked for, and waits until that is done.
func (r *examRequests) ask(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case r.asked <- done:
	case <-r.ended:
		return errNotExamining
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
	case <-r.ended:
		return errNotExamining
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// examine looks for the classic mistakes at the start, every few minutes and when
// it is asked to.
// Findings are warnings until they are not found any more; notes are for `lvx
// doctor` alone.
func (d *Daemon) examine(ctx context.Context) error {
	defer close(d.exams.ended)
	select {
	case <-d.Serving():
	case <-ctx.Done():
		return nil
	}
	var answer chan<- struct{} // to whom the examination is asked for, nil: to nobody
	host := new(doctor.Live)
	tick := time.NewTicker(doctorPause)
	defer tick.Stop()
	for {
		st, err := d.director.Status(ctx)
		if err != nil {
			return nil // ctx has ended, or the director has
		}
		c := doctor.NewCase(d.director.Config(), st, time.Now())
		had := c.Has
		c.Has = func(vip netip.Addr) bool { return had(vip) && d.stillHas(ctx, vip) }
		found := doctor.Examine(ctx, c, host)
		if ctx.Err() != nil {
			return nil
		}
		for _, kind := range doctor.Kinds() {
			d.warnings.Replace(kind, slices.DeleteFunc(slices.Clone(found), func(w warnings.Warning) bool {
				return w.Kind != kind || w.Note || d.isClaimed(w)
			}))
		}
		if answer != nil {
			close(answer)
			answer = nil
		}
		next := tick.C
		if !c.IsSettled {
			next = time.After(doctor.SettleTime)
		}
		select {
		case <-next:
		case answer = <-d.exams.asked:
		case <-ctx.Done():
			return nil
		}
	}
}

// stillHas reports whether this host has a VIP when another host has answered for it:
// that one may have taken it over meanwhile.
func (d *Daemon) stillHas(ctx context.Context, vip netip.Addr) bool {
	st, err := d.director.Status(ctx)
	return err == nil && doctor.NewCase(d.director.Config(), st, time.Now()).Has(vip)
}

// isClaimed reports whether the claims warn of the same VIP already.
func (d *Daemon) isClaimed(w warnings.Warning) bool {
	return slices.ContainsFunc(d.warnings.List(), func(o warnings.Warning) bool {
		vip, _, _ := strings.Cut(o.Subject, " on ")
		return (o.Kind == director.VIPTaken || o.Kind == vipAnswered) && (w.Subject == vip || strings.Contains(w.Text, vip+" "))
	})
}
