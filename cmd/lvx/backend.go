package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
)

// openBackend opens the data path that the configuration asks for. With
// auto it is XDP, or the kernel's IPVS where XDP cannot run at all.
func openBackend(ctx context.Context, cfg *config.Config, n *neighbors, log *slog.Logger) (lb.Backend, error) {
	openXDP := func() (lb.Backend, error) {
		return xdp.Open(ctx, xdp.Options{
			Log: log, Interfaces: cfg.Interfaces, Mode: loader.Mode(cfg.XDPMode), PinDir: cfg.PinDir,
			Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, Neighbors: n,
		})
	}
	openIPVS := func() (lb.Backend, error) {
		return ipvs.Open(ctx, ipvs.Options{Log: log, StateDir: filepath.Join(cfg.StateDir, "ipvs")})
	}
	switch cfg.Backend {
	case config.BackendIPVS:
		return openIPVS()
	case config.BackendXDP:
		return openXDP()
	}
	b, err := openXDP()
	if err == nil {
		return b, nil
	}
	if other := ipvs.Available(); other != nil {
		return nil, fmt.Errorf("no data path: XDP: %w; IPVS: %w", err, other)
	}
	log.Warn("XDP cannot run here, the kernel's IPVS serves", "err", err)
	return openIPVS()
}

// neighbors is what the XDP data path and the director ask of a resolver.
type neighbors struct{ *neigh.Resolver }

// Lookup implements [xdp.Neighbors].
func (n *neighbors) Lookup(a netip.Addr) xdp.Neighbor {
	e := n.Resolver.Lookup(a)
	return xdp.Neighbor{
		MAC: e.MAC, Source: e.SrcMAC, IfIndex: e.IfIndex, Device: e.Device, MTU: e.MTU, Local: e.Local, Err: e.Err,
	}
}

// Resolved implements [director.Neigh].
func (n *neighbors) Resolved(servers []netip.Addr) bool {
	return !slices.ContainsFunc(servers, func(a netip.Addr) bool { return !n.Resolver.Lookup(a).Usable() })
}
