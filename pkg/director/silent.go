package director

import (
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/warnings"
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
	var alone []warnings.Warning
	if len(peersOf(d.cfg)) == 0 {
		for _, v := range vips {
			alone = append(alone, warnings.Warning{
				Subject: "VIP " + v.Addr.String(), Cure: "name the other directors in `peers`",
				Text: "this host is a real server of its own VIP and no `peers` are configured: packets may go in circles while two directors are master",
			})
		}
	}
	d.warnings.Replace("no-peers", alone)
	err := d.opt.Silent.Serve(vips)
	d.silentErr = textOf(err)
	if err != nil {
		d.warnings.Put(warnings.Warning{
			Kind: "not-real-server", Subject: "this host", Text: "no real server of its own VIPs, will be retried: " + d.silentErr,
		})
	} else {
		d.warnings.End("not-real-server", "this host")
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
