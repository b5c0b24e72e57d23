package director

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
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

// Result is what a command has done, in lines for people.
type Result struct {
	Did     []string `json:"did"`
	Warning string   `json:"warning,omitempty"` // what is odd about it
	Renews  bool     `json:"renews,omitempty"`  // the daemon starts anew now, in place
}

// uidKey is the key of a context's user.
type uidKey struct{}

// WithUID notes in a context on whose behalf a command is given, for the
// history.
func WithUID(ctx context.Context, uid uint32) context.Context {
	return context.WithValue(ctx, uidKey{}, uid)
}

// uidOf is the user that [WithUID] noted; nil if there is none.
func uidOf(ctx context.Context) *uint32 {
	if uid, ok := ctx.Value(uidKey{}).(uint32); ok {
		return &uid
	}
	return nil
}

// Reload reads the configuration again and puts it into force as a whole. The
// result is what has changed. On error the configuration that ran before
// still runs.
func (d *Director) Reload(ctx context.Context) (r Result, err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	cfg, err := d.opt.Load()
	text := loadedText(d.opt)
	if err == nil {
		d.resolveNew(ctx, cfg)
	}
	uid := uidOf(ctx)
	err = d.do(ctx, func(ctx context.Context) error {
		// What a reload cannot change at all comes before what this host
		// refuses: that may follow from it.
		if cfg != nil {
			if fixed := d.refuseFixedKeys(cfg); fixed != nil {
				err = fixed
			}
		}
		if err == nil && (d.renewing != nil || len(d.renewalKeys(cfg)) > 0) {
			r.Did, r.Renews = d.renew(ctx, File{cfg, text}, uid), true
			return nil
		}
		if err == nil {
			r.Did, err = d.adoptFile(ctx, cfg)
		}
		d.reload.At = time.Now()
		if err != nil {
			d.watchServers(d.cfg, d.out.State.VIPs) // and not what the refused file names
			d.noteRefusal(err, uid)
			return err
		}
		d.reload.Error, d.text = "", text
		d.warnings.End("reload-refused", "configuration")
		// A real that serves goes by its check's fall, also if the check is new.
		d.opt.Health.Restore(presetChecks(d.cfg, d.opt.ProbeVIP, d.out.Memory, time.Now()))
		d.opt.Health.Set(Targets(d.cfg, d.opt.ProbeVIP))
		d.log.Info("configuration reloaded", "services", len(d.cfg.Services), "changes", len(r.Did))
		d.history.Add(history.Event{Kind: history.Reload, Subject: "configuration", Text: summarise(r.Did), UID: uid})
		return nil
	})
	return r, err
}

// noteRefusal keeps in status and history that a configuration is not in
// force.
func (d *Director) noteRefusal(err error, uid *uint32) {
	d.reload.Error = err.Error()
	d.warnings.Put(warnings.Warning{
		Kind: "reload-refused", Subject: "configuration", Text: "configuration not reloaded, the old one still runs: " + err.Error(),
		Cure: "correct the file, then lvx reload",
	})
	d.history.Add(history.Event{Kind: history.Reload, Subject: "configuration", Text: "refused: " + err.Error(), UID: uid})
}

// renew has the daemon start anew with a file, and says what that changes.
func (d *Director) renew(ctx context.Context, file File, uid *uint32) (did []string) {
	next, dropped := d.runtime.rebase(file.Config)
	merged := next.merge(file.Config, d.marks)
	did = append(d.diff(merged), next.describeAll(dropped)...)
	did = append(did, d.describeRenewal(file.Config)...)
	d.history.Add(history.Event{Kind: history.Reload, Subject: "configuration", Text: summarise(did), UID: uid})
	d.renewing = &file
	if _, err := d.retireRouters(ctx, merged, listVIPs(merged, nil)); err != nil {
		d.log.Warn("virtual routers did not give up their VIPs before the start in place", "err", err)
	}
	d.opt.Renew(file)
	return did
}

// Ping returns when the loop has answered.
func (d *Director) Ping(ctx context.Context) error {
	return d.do(ctx, func(context.Context) error { return nil })
}

// History lists what happened.
func (d *Director) History(f history.Filter) []history.Event { return d.history.List(f) }

// summarise says in a line what a reload has changed.
func summarise(did []string) string {
	switch len(did) {
	case 0:
		return "reloaded, nothing has changed"
	case 1, 2:
		return "reloaded: " + strings.Join(did, "; ")
	}
	return fmt.Sprintf("reloaded: %s; and %d more changes", did[0], len(did)-1)
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
			d.opt.Neigh.Bind(unionOf(d.cfg.MACs, cfg.MACs))
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

// unionOf is a with everything of b, which wins.
func unionOf(a, b map[netip.Addr][6]byte) map[netip.Addr][6]byte {
	all := map[netip.Addr][6]byte{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// Sync plans and applies now, and returns when that is done.
func (d *Director) Sync(ctx context.Context) error {
	return d.do(ctx, func(ctx context.Context) error {
		err := d.applyPlan(ctx, ignoreResult)
		d.recordResult(ctx, err)
		return err
	})
}

// NotByReload is what is said of a key that a reload refuses to change.
const NotByReload = "changed, which a reload cannot do"

// refuseFixedKeys refuses what cannot change while the daemon runs: where it
// keeps its things and, if the daemon cannot start anew by itself, what it is
// made of.
func (d *Director) refuseFixedKeys(cfg *config.Config) error {
	for _, c := range []struct {
		key  string
		same bool
	}{
		{"state_dir", cfg.StateDir == d.cfg.StateDir},
		{"pin_dir", cfg.PinDir == d.cfg.PinDir},
	} {
		if !c.same {
			return fmt.Errorf("%s: %s (lvx stop --purge, then start lvx)", c.key, NotByReload)
		}
	}
	if keys := d.renewalKeys(cfg); len(keys) > 0 && d.opt.Renew == nil {
		return fmt.Errorf("%s: %s (restart lvx)", keys[0], NotByReload)
	}
	return nil
}

// renewalKeys lists the changed keys that the daemon starts anew for.
func (d *Director) renewalKeys(cfg *config.Config) (keys []string) {
	for _, c := range []struct {
		key  string
		same bool
	}{
		{"interfaces", slices.Equal(cfg.Interfaces, d.cfg.Interfaces)},
		{"backend", cfg.Backend == d.cfg.Backend},
		{"xdp_mode", cfg.XDPMode == d.cfg.XDPMode},
		{"tables", cfg.Tables == d.cfg.Tables},
		{"notify", reflect.DeepEqual(cfg.Notify, d.cfg.Notify)},
		{"admin", reflect.DeepEqual(cfg.Admin, d.cfg.Admin)},
		{"sync", reflect.DeepEqual(cfg.Sync, d.cfg.Sync)},
		{"bgp", reflect.DeepEqual(cfg.BGP, d.cfg.BGP)},
		{"bfd", slices.Equal(cfg.BFD, d.cfg.BFD)},
		{"first VIP of IPv6", !bringsIPv6(d.cfg, cfg)},
	} {
		if !c.same {
			keys = append(keys, c.key)
		}
	}
	return keys
}

// bringsIPv6 reports whether XDP needs the packet path of IPv6, which a daemon
// that begins without a VIP of IPv6 does not load.
func bringsIPv6(before, after *config.Config) bool {
	hasIPv6 := func(cfg *config.Config) bool {
		return cfg.SharesIPv6() || slices.ContainsFunc(cfg.Services, func(s config.Service) bool { return s.IsIPv6() })
	}
	return after.Backend != config.BackendIPVS && hasIPv6(after) && !hasIPv6(before)
}

// describeRenewal says what a reload of cfg does besides what [Director.diff]
// lists.
func (d *Director) describeRenewal(cfg *config.Config) (lines []string) {
	if keys := d.renewalKeys(cfg); len(keys) > 0 {
		lines = append(lines, strings.Join(keys, ", ")+": changed: lvx starts anew in place, the data path serves on meanwhile")
	}
	return lines
}

// Trace begins to watch the packets that a filter wants.
func (d *Director) Trace(ctx context.Context, f lb.TraceFilter, keep int) (t lb.Trace, err error) {
	err = d.do(ctx, func(context.Context) error {
		tracer, ok := d.opt.Backend.(lb.Tracer)
		if !ok {
			return errors.New("trace: this backend shows no packets")
		}
		t, err = tracer.Trace(f, keep)
		return err
	})
	return t, err
}

// Explain asks the backend what would happen to a packet.
func (d *Director) Explain(ctx context.Context, p lb.Packet) (e lb.Explanation, err error) {
	err = d.do(ctx, func(context.Context) error {
		e, err = d.opt.Backend.Explain(p)
		return err
	})
	return e, err
}
