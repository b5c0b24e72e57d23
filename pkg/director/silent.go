package director

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
)

// SilentVIP is a VIP that this host takes packets for and says nothing of on
// the segment of an interface.
type SilentVIP struct {
	Addr      netip.Addr
	Interface string
}

// Silent makes this host a real server of VIPs that it shares with other
// directors: what the one that is master sends it is answered by the host
// itself. Who is master has the VIP on the interface besides.
type Silent interface {
	// Serve makes the host a silent real of exactly these VIPs. It is
	// idempotent.
	Serve(vips []SilentVIP) error
}

// serveSilently has the host take packets for the VIPs that it is a real of,
// if they have changed, or to repair what others did. As long as it is not known which reals are this host, all stays as it is:
// a predecessor may have left the VIPs there, with clients. What fails is
// tried again with the next repair; roles do not depend on it.
func (d *Director) serveSilently(repair bool) {
	if d.opt.Silent == nil || d.opt.Neigh == nil {
		return
	}
	vips, known := silentVIPs(d.cfg, d.opt.Neigh.Local)
	if !known || d.silent != nil && !repair && slices.Equal(vips, d.silent) {
		return
	}
	if len(vips) > 0 && len(peersOf(d.cfg)) == 0 && len(d.silent) == 0 {
		d.log.Warn("this host is a real server of its own VIPs, but the configuration names no `peers`: "+
			"packets may go in circles while two directors are master", "vip", vips[0].Addr)
	}
	err := d.opt.Silent.Serve(vips)
	if now := textOf(err); now != d.silentErr {
		d.silentErr = now
		if err != nil {
			d.log.Error("this host is no real server of its own VIPs, will be retried", "err", err)
		}
	}
	d.silent = append([]SilentVIP{}, vips...) // not nil: it has been tried
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// silentVIPs are the VIPs of VRRP that a service listens on whose reals this
// host is one of, whatever its health: an ill one answers nobody anyway.
func silentVIPs(cfg *config.Config, local func(netip.Addr) (is, known bool)) (vips []SilentVIP, known bool) {
	here := map[netip.Addr]bool{}
	for _, svc := range cfg.Services {
		mine := false
		for _, r := range svc.Reals {
			if r.Addr.IsLoopback() || mine {
				continue
			}
			if mine, known = local(r.Addr); !known {
				return nil, false
			}
		}
		for _, l := range svc.Listeners {
			here[l.Addr] = here[l.Addr] || mine
		}
	}
	for _, inst := range cfg.VRRP {
		for _, p := range inst.Addresses {
			if v := (SilentVIP{p.Addr(), inst.Interface}); here[v.Addr] && !slices.Contains(vips, v) {
				vips = append(vips, v)
			}
		}
	}
	return vips, true
}
