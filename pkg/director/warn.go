package director

import (
	"fmt"

	"github.com/lvx-lb/lvx/pkg/warnings"
)

// warnOfConfig reports what is odd about the running configuration.
func (d *Director) warnOfConfig() {
	var ws []warnings.Warning
	for _, text := range d.cfg.Warnings {
		ws = append(ws, warnings.Warning{Subject: "configuration", Text: text})
	}
	d.warnings.Replace("configuration", ws)
}

// warnOfOverrides reports overrides that hit nothing; before are those that
// were reported last.
func (d *Director) warnOfOverrides(before []Override) {
	if len(before)+len(d.out.Stale) == 0 {
		return
	}
	var ws []warnings.Warning
	for _, o := range d.out.Stale {
		real := RealName(o.Real)
		clear := fmt.Sprintf("lvx drain %s %s --undo", o.Service, real)
		if o.Weight != nil {
			clear = fmt.Sprintf("lvx weight %s %s --clear", o.Service, real)
		}
		ws = append(ws, warnings.Warning{
			Subject: real + " of " + o.Service, Note: true, Cure: clear,
			Text: "override (" + o.String() + ") for a real that is not configured",
		})
	}
	d.warnings.Replace("stale-override", ws)
}

// warnOfVRRP reports what is odd about the virtual routers.
func (d *Director) warnOfVRRP() {
	if d.opt.VRRP == nil {
		return
	}
	var ws []warnings.Warning
	for _, s := range d.opt.VRRP.Status() {
		if s.Warning != "" {
			ws = append(ws, warnings.Warning{Subject: "vrrp " + s.Instance, Text: s.Warning})
		}
	}
	d.warnings.Replace("vrrp", ws)
}
