package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/backend/auto"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// ending is what becomes of the data path and the addresses.
type ending int

const (
	// endUndone: the start failed. What was found runs on as it was, what
	// this daemon put there goes.
	endUndone ending = iota
	// endStopped: no successor is known of. VRRP hands over; what XDP serves
	// then waits for a successor and falls silent by itself.
	endStopped
	// endRestarted: a successor is about to start. Nobody is told, nothing is
	// handed over, the kernel's IPVS stays as well.
	endRestarted
)

// found is what an earlier daemon left for this one.
type found struct {
	datapath bool // pins or IPVS services
}

// findLeftovers looks before anything is opened.
func findLeftovers(cfg *config.Config) found {
	pins, err := os.ReadDir(cfg.PinDir)
	return found{datapath: err == nil && len(pins) > 0 || ipvs.Leftover(ledgerDir(cfg))}
}

// chooseEnding decides how a daemon ends that was asked to.
func (d *Daemon) chooseEnding(ctx context.Context) ending {
	job, err := SystemdJob(context.WithoutCancel(ctx), os.Getpid())
	if err != nil {
		d.log.Warn("taken for a stop without a successor", "err", err)
	}
	if job == JobRestart {
		return endRestarted
	}
	return endStopped
}

// finish ends what outlives the parts, which have stopped.
func (d *Daemon) finish(ctx context.Context, how ending) error {
	if d.path != nil { // checks end with the daemon
		if err := d.path.Close(); err != nil {
			d.log.Warn("probes through the VIP not detached", "err", err)
		}
	}
	var err error
	switch how {
	case endUndone:
		err = d.undo()
	case endRestarted:
		err = d.leave(ctx, true)
	case endStopped:
		err = d.leave(ctx, false)
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// undo takes back what this daemon did and nothing else.
func (d *Daemon) undo() error {
	errs := []error{d.vips.undo()}
	if d.found.datapath {
		d.log.Warn("the start failed, what was running before goes on")
		return errors.Join(append(errs, d.backend.Close(true))...)
	}
	return errors.Join(append(errs, d.takeDown())...)
}

// leave lets the data path serve on for a successor: for stop_grace, after
// which it falls silent by itself. What cannot do that stays only if a
// successor is known to come.
func (d *Daemon) leave(ctx context.Context, successor bool) error {
	if !successor {
		d.router.noteBehind()
	}
	grace := d.graceFor(ctx)
	if grace == 0 || !d.canLease && !successor {
		return d.takeDown()
	}
	if d.canLease {
		if err := d.director.Leave(context.WithoutCancel(ctx), grace); err != nil {
			return errors.Join(err, d.takeDown())
		}
	}
	var errs []error
	if b, ok := d.backend.(*auto.Backend); ok && !successor {
		errs = append(errs, b.RetireIPVS())
	}
	d.log.Info("the data path serves on for a successor", "stop_grace", grace)
	return errors.Join(append(errs, d.backend.Close(true))...)
}

// graceFor is how long the data path serves on: starting anew in place is no stop, unless
// this process was asked to end meanwhile.
func (d *Daemon) graceFor(ctx context.Context) time.Duration {
	grace := d.director.Config().StopGrace
	if !d.follower.isNone() && ctx.Err() == nil {
		grace = max(grace, config.DefaultStopGrace)
	}
	return grace
}

// takeDown takes everything that is lvx's off the host: addresses first, so
// that nobody is led to a host that does not serve.
func (d *Daemon) takeDown() error {
	return errors.Join(d.left.release(), d.vips.release(), d.silent.release(), d.backend.Close(false), director.Forget(d.opt.Config))
}

// Purge removes what a daemon that has ended left: the data path, addresses,
// notes about them. The lock of its pin directory must be held.
func Purge(ctx context.Context, cfg *config.Config) error {
	return errors.Join(purgeAddresses(ctx, cfg), purgeDatapath(ctx, cfg))
}

// purgeAddresses goes first, so that nobody is led to a host that does not
// serve.
func purgeAddresses(ctx context.Context, cfg *config.Config) error {
	var errs []error
	report := make(chan error, 1)
	note := func(err error) {
		if err == nil {
			return
		}
		select {
		case report <- err:
		default:
		}
	}
	holder := vip.NewHolder(vipNotes(cfg), note)
	silent := newSilentVIPs(silentNotes(cfg), note, slog.New(slog.DiscardHandler))
	routers := newRoutersLeft(routerNotes(cfg), note)
	notes := newCircle(ctx)
	notes.start("notes", holder.Run)
	notes.start("notes of a real server", silent.notes.Run)
	notes.start("notes of virtual routers", routers.run)
	errs = append(errs, holder.Release(), silent.release(), routers.release(), notes.stop())
	select {
	case err := <-report:
		errs = append(errs, err)
	default:
	}
	return errors.Join(append(errs, purgeRouters(cfg))...)
}

// purgeRouters takes off the VIPs of virtual routers, with their routes. An address owner has its
// VIPs without lvx.
func purgeRouters(cfg *config.Config) error {
	routers, err := readPlaces(cfg.VRRP, cfg.Interfaces)
	if err != nil {
		routers = cfg.VRRP
	}
	errs := []error{err}
	for _, inst := range routers {
		errs = append(errs, inst.Routing.Remove())
		for _, place := range inst.Places() {
			link, err := net.InterfaceByName(place.Interface)
			if err != nil || inst.Priority == vrrp.OwnerPriority {
				continue
			}
			errs = append(errs, vip.Remove(link.Index, place.VIPs))
		}
	}
	return errors.Join(errs...)
}

// purgeDatapath detaches the program, removes what is pinned, and takes lvx's
// services out of the kernel's IPVS.
func purgeDatapath(ctx context.Context, cfg *config.Config) error {
	return errors.Join(loader.Purge(cfg.PinDir), purgeIPVS(ctx, cfg), director.Forget(cfg), jsonfile.Remove(bfdNotes(cfg)))
}

// purgeIPVS takes lvx's services out of the kernel's IPVS.
func purgeIPVS(ctx context.Context, cfg *config.Config) error {
	if !ipvs.Leftover(ledgerDir(cfg)) {
		return nil
	}
	b, err := ipvs.Open(ctx, ipvs.Options{StateDir: ledgerDir(cfg), Boot: bootOrUnknown()})
	if err != nil {
		return err
	}
	return b.Close(false)
}
