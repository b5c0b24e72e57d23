package director

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// maintenance is whether this director is drained; it survives a restart.
type maintenance struct {
	Drained bool `json:"drained"`
}

// drainedPriority is that of a drained director's virtual routers: any other
// router is preferred, and without one this host goes on.
const drainedPriority = 1

const directorDrained = "director-drained" // kind of the warning

// errNothingToDrain says that no traffic can be led elsewhere.
var errNothingToDrain = errors.New("this director has no bgp: and no vrrp: (its VIPs have no other place to go; lvx stop ends it)")

// DrainDirector leads new and old traffic to other directors, or takes it back:
// routers are asked to prefer others, then VIPs are withdrawn, and virtual
// routers go to any other router there is. It lasts across restarts until it is
// undone.
func (d *Director) DrainDirector(ctx context.Context, undo bool) (r Result, err error) {
	uid := uidOf(ctx)
	err = d.do(ctx, func(context.Context) error {
		if !undo && d.opt.Routes == nil && len(d.cfg.VRRP) == 0 {
			return errNothingToDrain
		}
		d.maintenance.Drained = !undo
		if d.notes.maintenance != nil {
			_ = d.notes.maintenance.Put(d.maintenance) // plain values: they can be encoded
		}
		err := d.enforceMaintenance(d.cfg)
		r.Did = []string{d.describeMaintenance()}
		d.log.Info("maintenance", "drained", d.maintenance.Drained)
		d.history.Add(history.Event{Kind: history.Operator, Subject: "director", Text: r.Did[0], UID: uid})
		if err != nil {
			return fmt.Errorf("in force, but not applied yet: %w", err)
		}
		return nil
	})
	if r.Did != nil && d.notes.maintenance != nil {
		wait, cancel := context.WithTimeout(ctx, noteWriteTime)
		defer cancel()
		if d.notes.maintenance.Wait(wait) != nil {
			r.Warning = "in force, but not stored: it will not survive a restart (see lvx status)"
		}
	}
	return r, err
}

// describeMaintenance says in a line what a drain, or its undoing, does.
func (d *Director) describeMaintenance() string {
	if !d.maintenance.Drained {
		return "director: takes traffic again"
	}
	var words []string
	if d.opt.Routes != nil {
		words = append(words, fmt.Sprintf("routers are asked to prefer others, VIPs are withdrawn after %s", d.cfg.BGP.DrainTime))
	}
	for _, i := range d.cfg.VRRP {
		if i.Priority == vrrp.OwnerPriority {
			words = append(words, fmt.Sprintf("%s stays: its priority is %d", i.Name, vrrp.OwnerPriority))
		} else {
			words = append(words, fmt.Sprintf("%s goes to another router that preempts", i.Name))
		}
	}
	return "director: drained; " + strings.Join(words, "; ")
}

// loadMaintenance reads whether an earlier daemon was drained.
func (d *Director) loadMaintenance() {
	d.maintenance = readNote(d, maintenanceFile, func(text []byte) (m maintenance, err error) {
		err = jsonfile.Unmarshal(text, &m)
		return m, err
	})
	d.tellMaintenance()
}

// enforceMaintenance has everybody know whether this director is drained.
func (d *Director) enforceMaintenance(cfg *config.Config) error {
	d.tellMaintenance()
	return d.setVRRP(cfg)
}

// tellMaintenance tells routers and people whether this director is drained.
func (d *Director) tellMaintenance() {
	if d.opt.Routes != nil {
		d.opt.Routes.Drain(d.maintenance.Drained)
	}
	if !d.maintenance.Drained {
		d.warnings.End(directorDrained, "director")
		return
	}
	d.warnings.Put(warnings.Warning{
		Kind: directorDrained, Subject: "director", Text: "drained by an operator: it takes no traffic that another director can take",
		Cure: "lvx drain --director --undo", Note: true,
	})
}

// virtualRouters are the virtual routers as this director runs them by now.
func (d *Director) virtualRouters(cfg *config.Config) []vrrp.Instance {
	if !d.maintenance.Drained {
		return cfg.VRRP
	}
	drained := make([]vrrp.Instance, len(cfg.VRRP))
	for i, inst := range cfg.VRRP {
		if inst.Priority != vrrp.OwnerPriority {
			inst.Priority = drainedPriority
		}
		drained[i] = inst
	}
	return drained
}
