package director

import (
	"context"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Want says what a [Listing] should contain besides the services.
type Want struct {
	SinceZeroed bool // counters without what ipvsadm -Z hid
	Connections bool // live connections and templates
	Limit       int  // of the connections; 0 = all
}

// Listing is what `lvx list` prints from: what the backend holds, not what
// it should hold.
type Listing struct {
	Services    []lb.Service      `json:"services"` // in the order of the file, as applied
	Observed    lb.Observed       `json:"observed"`
	Stats       lb.Stats          `json:"stats"`
	Rates       []lb.ServiceRates `json:"rates"`
	Timeouts    lb.Timeouts       `json:"timeouts"` // defaults filled in
	Connections []lb.Connection   `json:"connections,omitempty"`
	Daemons     []ipvsadm.Daemon  `json:"daemons,omitempty"` // of connection sync
}

// List asks the backend what it holds.
func (d *Director) List(ctx context.Context, want Want) (l Listing, err error) {
	err = d.do(ctx, func(context.Context) error {
		s := d.out.State.Clone()
		l.Services, l.Timeouts = s.Services, s.Timeouts.WithDefaults()
		l.Rates, l.Daemons = d.meter.Rates(), d.listDaemons()
		var err error
		if l.Observed, err = d.opt.Backend.Observed(); err != nil {
			return err
		}
		if l.Stats, err = d.opt.Backend.Stats(); err != nil {
			return err
		}
		if want.SinceZeroed {
			d.runtime.hideZeroed(&l.Stats)
		}
		if want.Connections {
			l.Connections, err = d.opt.Backend.Connections(want.Limit)
		}
		return err
	})
	return l, err
}

// sampleRates feeds what looks at the counters every two seconds: the rate
// estimators, and the search for reals whose replies do not come back.
func (d *Director) sampleRates() {
	st, err := d.opt.Backend.Stats()
	if err != nil {
		d.log.Debug("no counters for the rates", "err", err)
		return
	}
	d.meter.Feed(st)
	d.forgetRestarted(&st)
	d.warnings.Replace(noReplies, d.unanswered.feed(d.out.State.Services, st, time.Now(), func(a netip.Addr) bool {
		if d.opt.Neigh == nil {
			return false
		}
		is, _ := d.opt.Neigh.Local(a)
		return is
	}))
}
