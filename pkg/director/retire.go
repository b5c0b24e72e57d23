package director

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// retireLimit is how long a reload waits for virtual routers that it takes away: a
// master resigns and serves until a backup has spoken.
const retireLimit = 5 * time.Second

// retireRouters has the virtual routers that are gone from a configuration give up
// their VIPs while their services are still in force: the kernel would reset the
// connections of clients that come for a VIP which is on an interface and is nobody's
// any more. Routers of whose addresses one is a VIP still, in whichever way, are left
// alone. It reports whether any has gone.
func (d *Director) retireRouters(ctx context.Context, cfg *config.Config, vips []lb.VIP) (isAny bool, err error) {
	isVIP := addressesOf(vips)
	isLeaving := func(r vrrp.Instance) bool {
		return d.active[r.Name] && !slices.ContainsFunc(cfg.VRRP, r.IsSameRouter) &&
			!slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool { return isVIP[p.Addr()] })
	}
	if d.opt.VRRP == nil || !slices.ContainsFunc(d.cfg.VRRP, isLeaving) {
		return false, nil
	}
	staying := *d.cfg
	staying.VRRP = slices.DeleteFunc(slices.Clone(d.cfg.VRRP), isLeaving)
	if err := d.setVRRP(&staying); err != nil {
		return false, err
	}
	limit := time.NewTimer(retireLimit)
	defer limit.Stop()
	in := d.inbox()
	for slices.ContainsFunc(d.cfg.VRRP, isLeaving) {
		select {
		case r := <-d.roles:
			in.takeRole(d, r)
		case _, ok := <-in.health:
			in.forgetEnded(&in.health, ok)
		case <-limit.C:
			return true, nil
		case <-ctx.Done():
			return true, nil
		}
		if err := d.replan(ctx, in, false); err != nil {
			return true, err
		}
	}
	return true, nil
}

func addressesOf(vips []lb.VIP) map[netip.Addr]bool {
	is := make(map[netip.Addr]bool, len(vips))
	for i := range vips {
		is[vips[i].Addr] = true
	}
	return is
}
