package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")              // no such service, real or override
	ErrStopped  = errors.New("the daemon is stopping") // Run has returned
)

// do runs f in the goroutine of Run, between two turns of the loop, with
// Run's context: a caller who hangs up does not leave half a change behind.
func (d *Director) do(ctx context.Context, f func(context.Context) error) error {
	res := make(chan error, 1)
	select {
	case d.calls <- func(run context.Context) { res <- f(run) }:
		return <-res // calls run to their end: nobody reads half a result
	case <-ctx.Done():
		return ctx.Err()
	case <-d.done:
		return ErrStopped
	}
}

// Reload reads the configuration again and puts it into force as a whole.
// On error the one that ran before still runs.
func (d *Director) Reload(ctx context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	cfg, err := d.opt.Load()
	if err == nil {
		d.resolveNew(ctx, cfg)
	}
	return d.do(ctx, func(ctx context.Context) error {
		if err == nil {
			err = d.refuseFixedKeys(cfg)
		}
		if err == nil {
			err = d.adoptConfig(ctx, cfg)
		}
		d.reload.At = time.Now()
		if err != nil {
			d.watchServers(d.cfg, d.out.State.VIPs) // and not whom the refused file names
			d.reload.Error = err.Error()
			d.log.Error("configuration not reloaded, the old one still runs", "err", err)
			return err
		}
		d.reload.Error = ""
		d.opt.Health.Set(Targets(cfg, d.opt.ProbeVIP))
		d.log.Info("configuration reloaded", "services", len(cfg.Services))
		return nil
	})
}

// resolveNew has the servers that cfg brings looked for before cfg comes into
// force, so that a reload which replaces all of them has no gap. It waits no
// longer for one that is silent than a start does.
func (d *Director) resolveNew(ctx context.Context, cfg *config.Config) {
	if d.opt.Neigh == nil {
		return
	}
	var newReals []netip.Addr
	_ = d.do(ctx, func(context.Context) error {
		if sameAddresses(cfg, d.cfg) {
			return nil
		}
		all := unique{}
		for _, a := range neighbours(d.cfg) {
			all.add(a)
		}
		known := len(all.list)
		for _, a := range servers(cfg) {
			all.add(a)
		}
		if newReals = all.list[known:]; len(newReals) > 0 {
			d.placedConfig = nil
			d.opt.Neigh.Watch(all.list)
		}
		return nil
	})
	for end := time.Now().Add(settleTime); !d.opt.Neigh.Resolved(newReals) && time.Now().Before(end); {
		select {
		case <-time.After(settleTime / 100):
		case <-ctx.Done():
			return
		}
	}
}

// Sync plans and applies now, and returns when that is done.
func (d *Director) Sync(ctx context.Context) error {
	return d.do(ctx, func(ctx context.Context) error {
		err := d.applyPlan(ctx, ignoreResult)
		d.recordResult(ctx, err)
		return err
	})
}

// refuseFixedKeys refuses what cannot change while the daemon runs.
func (d *Director) refuseFixedKeys(cfg *config.Config) error {
	for _, c := range []struct {
		key  string
		same bool
	}{
		{"interfaces", slices.Equal(cfg.Interfaces, d.cfg.Interfaces)},
		{"backend", cfg.Backend == d.cfg.Backend},
		{"xdp_mode", cfg.XDPMode == d.cfg.XDPMode},
		{"tables", cfg.Tables == d.cfg.Tables},
		{"notify", reflect.DeepEqual(cfg.Notify, d.cfg.Notify)},
		{"admin", cfg.Admin == d.cfg.Admin},
		{"state_dir", cfg.StateDir == d.cfg.StateDir},
		{"pin_dir", cfg.PinDir == d.cfg.PinDir},
	} {
		if !c.same {
			return fmt.Errorf("%s: changed, which a reload cannot do (restart lvx)", c.key)
		}
	}
	return nil
}

// SetWeight lets an operator's weight win over the configuration's; nil
// gives the configuration its say again. real is "ADDR" or "ADDR:PORT".
func (d *Director) SetWeight(ctx context.Context, service, real string, weight *uint16) error {
	return d.changeOverride(ctx, service, real, weight == nil, func(o *Override) { o.Weight = weight })
}

// Drain gives a real weight 0: its connections stay, it gets no new ones.
// With undo it gets its weight back.
func (d *Director) Drain(ctx context.Context, service, real string, undo bool) error {
	return d.changeOverride(ctx, service, real, undo, func(o *Override) { o.Drain = !undo })
}

// changeOverride changes one override: written to disk first, so that what an
// operator was told is done survives a restart.
func (d *Director) changeOverride(ctx context.Context, service, real string, clearing bool, change func(*Override)) error {
	return d.do(ctx, func(ctx context.Context) error {
		key, err := d.findReal(service, real, clearing)
		if err != nil {
			return err
		}
		next := d.overrides.edit(service, key, change)
		if err := saveOverrides(d.cfg.StateDir, next); err != nil {
			return err
		}
		d.overrides = next
		what := "cleared"
		if i := next.find(service, key); i >= 0 {
			what = next[i].String()
		}
		d.log.Info("operator override", "service", service, "real", RealName(key), "now", what)
		err = d.applyPlan(ctx, ignoreResult)
		d.recordResult(ctx, err)
		if err != nil {
			return fmt.Errorf("stored, but not applied yet: %w", err)
		}
		return nil
	})
}

// findReal resolves what an operator typed. A stale override can be cleared,
// but not made.
func (d *Director) findReal(service, real string, clearing bool) (netip.AddrPort, error) {
	want, err := parseReal(real)
	if err != nil {
		return netip.AddrPort{}, err
	}
	matches := func(k netip.AddrPort) bool {
		return k.Addr() == want.Addr() && (want.Port() == 0 || k.Port() == want.Port())
	}
	var found, all []netip.AddrPort
	known := false
	for _, svc := range d.cfg.Services {
		if svc.Name != service {
			continue
		}
		known = true
		for _, r := range svc.Reals {
			all = append(all, r.Key())
		}
	}
	if clearing {
		for _, o := range d.overrides {
			if o.Service == service && !slices.Contains(all, o.Real) {
				all, known = append(all, o.Real), true
			}
		}
	}
	if !known {
		return netip.AddrPort{}, fmt.Errorf("service %q: %w (%s)", service, ErrNotFound, d.serviceNames())
	}
	for _, k := range all {
		if matches(k) {
			found = append(found, k)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if len(found) > 1 {
		return netip.AddrPort{}, fmt.Errorf("real %s of %s: %d of them (give ADDR:PORT: %s)", want.Addr(), service, len(found), listAddrs(found))
	}
	return netip.AddrPort{}, fmt.Errorf("real %s of %s: %w (%s)", RealName(want), service, ErrNotFound, listAddrs(all))
}

func (d *Director) serviceNames() string {
	names := make([]string, 0, len(d.cfg.Services))
	for _, s := range d.cfg.Services {
		names = append(names, s.Name)
	}
	return listSome(names)
}

func listAddrs(as []netip.AddrPort) string {
	words := make([]string, 0, len(as))
	for _, a := range as {
		words = append(words, RealName(a))
	}
	return listSome(words)
}

// listSome keeps a hint on one line.
func listSome(words []string) string {
	switch n := len(words); {
	case n == 0:
		return "there are none"
	case n > 10:
		return "there are " + strings.Join(words[:10], ", ") + fmt.Sprintf(" and %d more", n-10)
	}
	return "there are " + strings.Join(words, ", ")
}

// parseReal reads "ADDR", "ADDR:PORT" or "[ADDR]:PORT".
func parseReal(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	return netip.AddrPort{}, fmt.Errorf("real %q: not an address (expected ADDR or ADDR:PORT)", s)
}

// Explain asks the backend what would happen to a packet.
func (d *Director) Explain(ctx context.Context, p lb.Packet) (e lb.Explanation, err error) {
	err = d.do(ctx, func(context.Context) error {
		e, err = d.opt.Backend.Explain(p)
		return err
	})
	return e, err
}
