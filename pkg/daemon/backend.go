package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/auto"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/backend/xdp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// datapath is the data path of a director.
type datapath struct {
	lb.Backend
	canLease bool             // it can fall silent by itself
	table    connsync.Backend // where XDP keeps connections; nil: XDP does not run
}

// openBackend opens the data path that the configuration asks for. With auto
// every service gets the one that can run it.
func openBackend(ctx context.Context, cfg *config.Config, n *neighbors, w *warnings.Registry, log *slog.Logger) (datapath, error) {
	openXDP := func() (*xdp.Backend, error) {
		if err := hostinfo.WeakOrder(); err != nil {
			return nil, err
		}
		return xdp.Open(ctx, xdp.Options{
			Log: log, Interfaces: cfg.Interfaces, Mode: loader.Mode(cfg.XDPMode), CannotSend: hostinfo.CannotSend, PinDir: cfg.PinDir,
			Flows: cfg.Tables.Flows, Templates: cfg.Tables.Templates, Neighbors: n,
			IPv6: servesIPv6(cfg),
		})
	}
	ledger := ledgerDir(cfg)
	openIPVS := func(ctx context.Context) (lb.Backend, error) {
		return ipvs.Open(ctx, ipvs.Options{
			Log: log, StateDir: ledger, Report: reportStorage(w, filepath.Join(ledger, "ipvs.json"), "after a crash, what lvx has in kernel IPVS is not known"),
		})
	}
	switch cfg.Backend {
	case config.BackendIPVS:
		b, err := openIPVS(ctx)
		if err == nil { // a packet path of another `backend:` would serve on in front of it
			err = loader.Purge(cfg.PinDir)
		}
		return datapath{Backend: b}, err
	case config.BackendXDP:
		b, err := openXDP()
		if err == nil {
			err = purgeIPVS(ctx, cfg)
		}
		return datapath{Backend: b, canLease: true, table: b}, err
	}
	o := auto.Options{Log: log, Cannot: xdp.Cannot, OpenIPVS: openIPVS, Leftover: ipvs.Leftover(ledger)}
	b, err := openXDP()
	if err == nil {
		o.XDP, o.Cannot = b, b.Cannot
		return datapath{Backend: auto.New(o), canLease: true, table: b}, nil
	}
	if other := ipvs.Available(); other != nil {
		return datapath{}, fmt.Errorf("no data path: XDP: %w; IPVS: %w", err, other)
	}
	log.Warn("XDP cannot run here, the kernel's IPVS serves", "err", err)
	o.Refused = err
	return datapath{Backend: auto.New(o)}, nil
}

// servesIPv6 reports whether XDP is to run a service of IPv6: where it is not,
// IPv6 costs no memory.
func servesIPv6(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Services, func(s config.Service) bool {
		return s.IsIPv6() && xdp.Cannot(s.Service) == ""
	})
}

// ledgerDir is where the kernel's IPVS is remembered.
func ledgerDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "ipvs") }
