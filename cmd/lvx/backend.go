package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/auto"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
)

// openBackend opens the data path that the configuration asks for. With auto
// every service gets the one that can run it.
func openBackend(ctx context.Context, cfg *config.Config, n *neighbors, log *slog.Logger) (lb.Backend, error) {
	openXDP := func() (lb.Backend, error) {
		return xdp.Open(ctx, xdp.Options{
			Log: log, Interfaces: cfg.Interfaces, Mode: loader.Mode(cfg.XDPMode), PinDir: cfg.PinDir,
			Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, Neighbors: n,
		})
	}
	ledger := filepath.Join(cfg.StateDir, "ipvs")
	openIPVS := func(ctx context.Context) (lb.Backend, error) {
		return ipvs.Open(ctx, ipvs.Options{Log: log, StateDir: ledger})
	}
	switch cfg.Backend {
	case config.BackendIPVS:
		return openIPVS(ctx)
	case config.BackendXDP:
		return openXDP()
	}
	o := auto.Options{Log: log, Cannot: xdp.Cannot, OpenIPVS: openIPVS, Leftover: ipvs.Leftover(ledger)}
	b, err := openXDP()
	if err == nil {
		o.XDP = b
		return auto.New(o), nil
	}
	if other := ipvs.Available(); other != nil {
		return nil, fmt.Errorf("no data path: XDP: %w; IPVS: %w", err, other)
	}
	log.Warn("XDP cannot run here, the kernel's IPVS serves", "err", err)
	o.Refused = err
	return auto.New(o), nil
}

// runsOn tells which data path lvx run would give a service, and why; refused
// is why XDP cannot run on this host at all.
func runsOn(cfg *config.Config, svc lb.Service, refused error) (backend, why string) {
	switch {
	case cfg.Backend == config.BackendIPVS:
		return "ipvs", ""
	case cfg.Backend == config.BackendXDP:
		return "xdp", ""
	case refused != nil:
		return "ipvs", refused.Error()
	}
	if why := xdp.Cannot(svc); why != "" {
		return "ipvs", why
	}
	return "xdp", ""
}

// neighbors is what the XDP data path and the director ask of a resolver.
type neighbors struct{ *neigh.Resolver }

// Lookup implements [xdp.Neighbors].
func (n *neighbors) Lookup(a netip.Addr) xdp.Neighbor {
	e := n.Resolver.Lookup(a)
	return xdp.Neighbor{
		MAC: e.MAC, Source: e.SrcMAC, IfIndex: e.IfIndex, Device: e.Device, MTU: e.MTU, Local: e.Local, Err: e.Err,
		Pending: e.Pending,
	}
}

// Local implements [director.Neigh].
func (n *neighbors) Local(a netip.Addr) (is, known bool) {
	e := n.Resolver.Lookup(a)
	return e.Local, !e.Pending || e.IfIndex != 0
}

// Resolved implements [director.Neigh].
func (n *neighbors) Resolved(servers []netip.Addr) bool {
	return !slices.ContainsFunc(servers, func(a netip.Addr) bool { return !n.Resolver.Lookup(a).Usable() })
}
