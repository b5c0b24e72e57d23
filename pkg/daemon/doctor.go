package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/doctor"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// doctorPause is the time between two examinations: each asks the segment
// about every VIP and every real.
const doctorPause = 3 * time.Minute

// examine looks for the classic mistakes at the start and every few minutes.
// Findings are warnings until they are not found any more; notes are for `lvx
// doctor` alone.
func (d *Daemon) examine(ctx context.Context) error {
	select {
	case <-d.Serving():
	case <-ctx.Done():
		return nil
	}
	host := new(doctor.Live)
	tick := time.NewTicker(doctorPause)
	defer tick.Stop()
	for {
		st, err := d.director.Status(ctx)
		if err != nil {
			return nil // ctx has ended, or the director has
		}
		found := doctor.Examine(ctx, doctor.NewCase(d.director.Config(), st), host)
		if ctx.Err() != nil {
			return nil
		}
		for _, kind := range doctor.Kinds() {
			d.warnings.Replace(kind, slices.DeleteFunc(slices.Clone(found), func(w warnings.Warning) bool {
				return w.Kind != kind || w.Note || d.isClaimed(w)
			}))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// isClaimed reports whether the claims warn of the same VIP already.
func (d *Daemon) isClaimed(w warnings.Warning) bool {
	return slices.ContainsFunc(d.warnings.List(), func(o warnings.Warning) bool {
		vip, _, _ := strings.Cut(o.Subject, " on ")
		return (o.Kind == vipTaken || o.Kind == vipAnswered) && (w.Subject == vip || strings.Contains(w.Text, vip+" "))
	})
}
