package director

import (
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Sync shares connections with other directors. Its methods do not wait.
type Sync interface {
	// Status reports on the other directors.
	Status() connsync.Status

	// Applied hears of the services of every state that the data path holds,
	// each with all reals of the file in its order, also those that are out for
	// now: which ones these are, each director sees for itself.
	Applied(services []lb.Service)
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
		d.opt.Sync.Applied(wholeServices(d.cfg, d.out))
	}
	if d.opt.Routes != nil {
		d.opt.Routes.Serving(servingVIPs(d.cfg, d.out))
	}
}

// wholeServices are the services as they would be if every real were up, with
// the weights that are in force.
func wholeServices(cfg *config.Config, out Planned) []lb.Service {
	services := make([]lb.Service, len(cfg.Services))
	for i := range cfg.Services {
		s := cfg.Services[i].Service
		s.Reals, s.Absent = slices.Clone(s.Reals), nil
		for n := range s.Reals {
			s.Reals[n].Weight = out.Services[i].Reals[n].Weight
		}
		services[i] = s
	}
	return services
}
