package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/lvx-lb/lvx/loader/probe"
	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/netfilter"
	"github.com/lvx-lb/lvx/pkg/notify"
)

// lvxd is everything that runs in one daemon. This file is the wiring:
// who is made of what, who starts after whom, and who stops before whom.
type lvxd struct {
	log      *slog.Logger
	cfg      *config.Config // as it was at the start
	backend  lb.Backend
	path     *probe.Path // nil: probes cannot go through the VIP
	neigh    *neighbors
	announce *neigh.Announcer
	vips     *heldVIPs
	silent   *silentVIPs
	monitor  *health.Monitor
	notifier *notify.Notifier
	router   *router
	director *director.Director
	admin    *admin.Server
}

// newDaemon opens what has to be closed again, and connects the parts.
func newDaemon(ctx context.Context, cfg *config.Config, load func() (*config.Config, error), log *slog.Logger) (*lvxd, error) {
	d := &lvxd{log: log, cfg: cfg}
	for _, w := range cfg.Warnings {
		log.Warn(w, "component", "config") //nolint:sloglint // the warning is the message
	}
	var err error
	if d.notifier, err = notify.New(notify.Options{
		Exec: cfg.Notify.Exec, SMTP: notify.SMTP(cfg.Notify.SMTP), Webhook: cfg.Notify.Webhook, Log: log,
	}); err != nil {
		return nil, err
	}
	d.neigh = &neighbors{Resolver: neigh.NewResolver(neigh.Options{Log: log})}
	d.announce = neigh.NewAnnouncer(log)
	d.vips = &heldVIPs{vips: neigh.NewVIPs(filepath.Join(cfg.StateDir, "vips.json")), announce: d.announce, log: log}
	d.silent = &silentVIPs{file: filepath.Join(cfg.StateDir, "silent.json"), log: log}
	if d.backend, err = openBackend(ctx, cfg, d.neigh, log); err != nil {
		return nil, err
	}
	if d.path, err = probe.Attach(cfg.Interfaces); err != nil {
		log.Warn("checks cannot go through the VIP, they ask the real's own address", "component", "health", "err", err)
	}
	d.monitor = health.NewMonitor(health.Options{New: d.newChecker})
	d.router = newRouter(d.announce, d.backend, log)
	d.director = director.New(director.Options{
		Config: cfg, Load: load, Backend: d.backend, Health: d.monitor, VRRP: d.router, VIPs: d.vips,
		Notify: d.notifier, Neigh: d.neigh, Silent: d.silent,
		Firewall: firewall(d.backend), ProbeVIP: d.path != nil, Version: version, Log: log,
	})
	d.router.director = d.director
	d.announce.OnClaim(func(vip netip.Addr, by neigh.MAC) { d.router.Claimed(vip, by.String()) })
	d.admin = admin.NewServer(admin.Options{
		Director: d.director, Socket: cfg.Admin.Socket, Listen: cfg.Admin.Listen, Ready: d.director.Ready(), Log: log,
	})
	return d, nil
}

// firewall is what has to be asked beside a data path that is before it; the
// kernel's IPVS is behind.
func firewall(b lb.Backend) director.Firewall {
	if _, behind := b.(*ipvs.Backend); behind {
		return nil
	}
	return new(netfilter.Reader)
}

func (d *lvxd) newChecker(t health.Target) (health.Checker, error) {
	if d.path == nil {
		return health.New(t)
	}
	return health.New(t, health.WithPath(d.path))
}

// run runs until ctx ends or a part fails, and leaves nothing behind. There
// are two circles: what faces the outside (VRRP, the socket) stops first;
// what it needs (data path, checks, addresses) serves until it has stopped,
// so that a resigning master forwards until its successor does.
func (d *lvxd) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	for _, part := range []func(context.Context) error{
		d.neigh.Run, d.announce.Run, d.vips.Run, d.monitor.Run, d.notifier.Run, d.director.Run,
	} {
		g.Go(func() error { return part(inner) })
	}
	g.Go(func() error {
		defer stop()
		return d.outer(ctx)
	})
	return errors.Join(g.Wait(), d.close())
}

// outer is the circle that faces the outside. It starts when the data path
// holds its first state.
func (d *lvxd) outer(ctx context.Context) error {
	select {
	case <-d.director.Applied():
	case <-ctx.Done():
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.router.Run(ctx) })
	g.Go(func() error { return d.admin.Run(ctx) })
	g.Go(func() error {
		onHangup(ctx, func() {
			d.notifySystemd(daemon.SdNotifyReloading)
			_ = d.director.Reload(ctx) // it logs by itself and shows in the status
			d.notifySystemd(daemon.SdNotifyReady)
		})
		return nil
	})
	g.Go(func() error {
		select {
		case <-d.admin.Up():
			d.log.Info("serving", "services", len(d.cfg.Services), "socket", d.cfg.Admin.Socket)
			d.notifySystemd(daemon.SdNotifyReady)
		case <-ctx.Done():
		}
		<-ctx.Done()
		d.log.Info("stopping")
		d.notifySystemd(daemon.SdNotifyStopping)
		return nil
	})
	return g.Wait()
}

func (d *lvxd) notifySystemd(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Debug("systemd not notified", "err", err)
	}
}

// close takes everything that is ours off the host again.
func (d *lvxd) close() error {
	errs := []error{d.vips.release(), d.silent.release()}
	if d.path != nil {
		errs = append(errs, d.path.Close())
	}
	errs = append(errs, d.backend.Close(false), d.director.Forget())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
