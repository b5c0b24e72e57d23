package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/auto"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// openBackend opens the data path that the configuration asks for. With auto
// every service gets the one that can run it.
func openBackend(ctx context.Context, cfg *config.Config, n *neighbors, w *warnings.Registry, log *slog.Logger) (lb.Backend, error) {
	openXDP := func() (lb.Backend, error) {
		return xdp.Open(ctx, xdp.Options{
			Log: log, Interfaces: cfg.Interfaces, Mode: loader.Mode(cfg.XDPMode), PinDir: cfg.PinDir,
			Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, Neighbors: n,
		})
	}
	ledger := filepath.Join(cfg.StateDir, "ipvs")
	openIPVS := func(ctx context.Context) (lb.Backend, error) {
		return ipvs.Open(ctx, ipvs.Options{
			Log: log, StateDir: ledger, Report: reportStorage(w, filepath.Join(ledger, "ipvs.json"), "after a crash, what lvx has in kernel IPVS is not known"),
		})
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
