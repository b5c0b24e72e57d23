package director

import (
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Sync shares connections with other directors. Its methods do not wait.
type Sync interface {
	// Status reports on the other directors.
	Status() connsync.Status

	// Applied hears of every state that the data path holds. It does not
	// keep s.
	Applied(s lb.State)
}

// syncStatus is nil without connection sync.
func (d *Director) syncStatus() *connsync.Status {
	var st connsync.Status
	if d.opt.SyncDaemons != nil {
		st.Daemons = d.opt.SyncDaemons.Status()
	}
	if d.opt.Sync == nil {
		if len(st.Daemons) == 0 {
			return nil
		}
		return &st
	}
	of := d.opt.Sync.Status()
	st.Peers, st.Key, st.Wire = of.Peers, of.Key, of.Wire
	return &st
}

// announceState tells other directors and routers what the data path holds, if
// it holds the plan: err is the Apply's.
func (d *Director) announceState(err error) {
	if err != nil {
		return
	}
	if d.opt.Sync != nil {
		d.opt.Sync.Applied(d.out.State)
	}
	if d.opt.Routes != nil {
		d.opt.Routes.Serving(servingVIPs(d.cfg, d.out))
	}
}
