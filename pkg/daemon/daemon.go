// Package daemon is a whole director in one process: the data path, the
// director's loop, checks, VRRP, addresses and announcements, the admin socket,
// and in which order they start and stop.
//
// It is wiring. What a part does is in the part's package; nothing is decided
// here but who needs whom.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/loader/probe"
	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/netfilter"
	"github.com/lvx-lb/lvx/pkg/notify"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Options are what a [Daemon] works with.
type Options struct {
	Config   *config.Config                       // to start with
	Load     func() (*config.Config, error)       // reads it again, for a reload
	Text     func() []byte                        // what Load has read last, for `lvx export`
	Parse    func([]byte) (*config.Config, error) // reads another file's text, for `lvx diff`
	Reload   <-chan struct{}                      // each value asks for a reload; nil: nobody but the socket asks
	Version  string                               // for status
	Served   func()                               // called when it serves, once; may be nil
	Warnings []warnings.Warning                   // of what happened before the start
	Log      *slog.Logger

	source   []byte            // the text of Config, if it is known
	refused  error             // why the configuration that was to follow did not start
	fellBack *warnings.Warning // native mode was given up: auto is generic now
}

// Daemon is everything that runs in one director.
type Daemon struct {
	opt      Options
	log      *slog.Logger
	warnings *warnings.Registry
	exams    *examRequests
	history  *history.Log
	found    found
	backend  lb.Backend
	canLease bool                        // the backend can fall silent by itself
	retire   func(context.Context) error // see [datapath]; may be nil
	losses   *lossWatch                  // nil: XDP does not run
	path     *probe.Path                 // nil: probes cannot go through the VIP
	neigh    *neighbors
	announce *neigh.Announcer
	links    *linkWatch
	vips     *heldVIPs
	silent   *silentVIPs
	left     *routersLeft
	monitor  *health.Monitor
	notifier *notify.Notifier
	router   *router
	sync     *connSync // nil: connections are not shared by the file
	// syncDaemons are nil where no table can be shared.
	syncDaemons *syncDaemons
	routes      *routes   // nil: nothing is announced by BGP
	sessions    *sessions // nil: no BFD of its own
	director    *director.Director
	admin       *admin.Server
	ready       chan struct{} // closed by awaitVIPs
	next        chan Next     // what follows this daemon, in the same process; capacity 1
	follower    Next          // taken from next by await
}

// New opens what has to be closed again, and connects the parts. Nothing is
// served before Run.
func New(ctx context.Context, o Options) (*Daemon, error) {
	d := &Daemon{opt: o, log: o.Log, warnings: warnings.New(o.Log), ready: make(chan struct{}), next: make(chan Next, 1), exams: newExamRequests()}
	cfg := o.Config
	boot, err := vip.BootID()
	if err != nil { // nothing is remembered then
		o.Log.Warn("what an earlier daemon has found out is not used", "err", err)
	}
	for _, w := range o.Warnings {
		d.warnings.Put(w)
	}
	d.history = openHistory(cfg.StateDir, d.warnings)
	if d.notifier, err = notify.New(notify.Options{
		Exec: cfg.Notify.Exec, SMTP: notify.SMTP(cfg.Notify.SMTP), Webhook: cfg.Notify.Webhook, Log: o.Log,
		Undelivered: func(to, message string, err error) {
			d.history.Add(history.Event{Kind: history.Notify, Subject: to, Text: fmt.Sprintf("not delivered: %s (%v)", message, err)})
		},
	}); err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	d.neigh = &neighbors{Resolver: neigh.NewResolver(neigh.Options{Log: o.Log, OnUsable: d.askNow})}
	d.announce, d.links = neigh.NewAnnouncer(o.Log), newLinkWatch(cfg.Interfaces, o.Log)
	d.vips = newHeldVIPs(vipNotes(cfg), d.announce, newClaims(d.neigh.AddrsOf, d.warnings, o.Log), o.Log)
	d.silent = newSilentVIPs(silentNotes(cfg), reportStorage(d.warnings, silentNotes(cfg), "after a crash, what makes this host a real server stays"), o.Log)
	d.left = newRoutersLeft(routerNotes(cfg), reportStorage(d.warnings, routerNotes(cfg), "VIPs of virtual routers that a restart takes away stay on their interfaces"))
	d.vips.routers = d.left
	d.found = findLeftovers(cfg)
	if err := d.openDatapath(ctx, cfg); err != nil {
		return nil, err
	}
	if d.path, err = probe.Attach(cfg.Interfaces, d.neigh.IsVIP); err != nil {
		o.Log.Warn("checks cannot go through the VIP, they ask the real's own address", "component", "health", "err", err)
	}
	d.sessions = newSessions(cfg, d.warnings, d.history, o.Log)
	d.monitor = health.NewMonitor(health.Options{
		New: d.newChecker, Log: o.Log, OnFailure: d.neigh.Recheck, CannotAsk: d.neigh.CannotAsk,
	})
	d.router = newRouter(cfg.Interfaces, d.announce, d.backend, d.monitor, o.Log)
	d.router.canLease, d.router.left = d.canLease, d.left
	d.router.share(d.sync)
	d.sessions.connect(d.monitor, d.router.Router)
	d.director = director.New(director.Options{
		Config: cfg, Load: o.Load, Parse: o.Parse, Text: o.Text, Source: o.source, Backend: d.backend, Health: d.monitor, VRRP: d.router, VIPs: d.vips,
		Notify: d.notifier, Neigh: d.neigh, Silent: d.silent,
		Firewall: firewall(d.backend), Marks: new(netfilter.Reader), ProbeVIP: d.path != nil, Version: o.Version, Log: o.Log,
		Boot: boot, Warnings: d.warnings, History: d.history, Renew: d.startAnew, Refused: o.refused, Sync: d.sync.forDirector(), Routes: d.routes.forDirector(),
		SyncDaemons: d.syncDaemons.forDirector(), Losses: d.losses.forDirector(), BFD: d.sessions.forDirector(),
	})
	d.router.director = d.director
	d.links.follow = d.director.Sync
	d.announce.OnLink(d.links.settleBefore)
	d.announce.OnClaim(func(vip netip.Addr, by neigh.MAC) { d.router.Claimed(vip, by.String()) })
	d.admin = admin.NewServer(admin.Options{
		Director: d.director, Socket: cfg.Admin.Socket, Listen: cfg.Admin.Listen, Hosts: cfg.Admin.Hosts,
		OmitRealMetrics: cfg.Admin.OmitRealMetrics, Warnings: d.warnings, Ready: d.ready, Upgrade: d.upgrade, Examine: d.exams.ask, Log: o.Log,
		Sync: d.syncDaemons.forAdmin(),
	})
	return d, nil
}

// openDatapath opens the data path, and prepares what other directors and
// routers are told of it.
func (d *Daemon) openDatapath(ctx context.Context, cfg *config.Config) error {
	mode := loader.Mode(cfg.XDPMode)
	if d.opt.fellBack != nil && mode == loader.Auto {
		mode = loader.Generic
		d.warnings.Put(*d.opt.fellBack)
	}
	path, err := openBackend(ctx, cfg, mode, d.neigh, d.warnings, d.log)
	if err != nil {
		return err
	}
	d.backend, d.canLease, d.retire = path.Backend, path.canLease, path.retire
	var feed *newsFeed
	if path.xdp != nil {
		feed = &newsFeed{table: path.xdp}
		d.losses = watchLosses(cfg, d.warnings, d.log)
		isNative := func(a loader.Attachment) bool { return a.Mode == loader.Native }
		if mode == loader.Auto && slices.ContainsFunc(path.xdp.Datapath().Attachments, isNative) {
			d.losses.sentBack, d.losses.giveUp = path.xdp.SentBack, d.giveUpNative
		}
	}
	if d.sync, err = newConnSync(cfg, feed, d.warnings, d.log); err == nil {
		if feed != nil {
			d.syncDaemons = newSyncDaemons(feed, d.sync, d.log)
		}
		d.routes = newRoutes(cfg, d.sync, d.warnings, d.history, d.log)
	}
	if err != nil {
		if d.losses != nil {
			err = errors.Join(err, d.losses.end())
		}
		return errors.Join(err, d.backend.Close(d.found.datapath))
	}
	return nil
}

// openHistory opens the history of this director. A file that cannot be used
// is a warning, as long as it cannot.
func openHistory(stateDir string, w *warnings.Registry) *history.Log {
	path := filepath.Join(stateDir, history.FileName)
	return history.New(path, reportStorage(w, path, "what happens is forgotten at a restart"))
}

// reportStorage makes a warning of a file that cannot be used, as long as it
// cannot; lost is what that means.
func reportStorage(w *warnings.Registry, path, lost string) func(error) {
	const kind = "not-stored"
	return func(err error) {
		if err == nil {
			w.End(kind, path)
			return
		}
		w.Put(warnings.Warning{
			Kind: kind, Subject: path, Text: err.Error() + "; " + lost, Cure: "make " + filepath.Dir(path) + " writable, with room (see state_dir)",
		})
	}
}

// Files of notes, below state_dir.
func vipNotes(cfg *config.Config) string    { return filepath.Join(cfg.StateDir, "vips.json") }
func silentNotes(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "silent.json") }
func routerNotes(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "routers.json") }

// firewall is asked about rules that a data path before it bypasses; the
// kernel's IPVS is behind it.
func firewall(b lb.Backend) director.Firewall {
	if _, behind := b.(*ipvs.Backend); behind {
		return nil
	}
	return new(netfilter.Reader)
}

// askNow has a real that has just become reachable checked at once.
func (d *Daemon) askNow(real netip.Addr) { d.monitor.AskNow(real) }

// sourceFor is what checks of a real come from: no VIP.
func (d *Daemon) sourceFor(real netip.Addr) netip.Addr { return d.neigh.Resolver.Lookup(real).SrcAddr }

func (d *Daemon) newChecker(t health.Target) (health.Checker, error) {
	options := []health.Option{health.WithSource(d.sourceFor)}
	if d.path != nil {
		options = append(options, health.WithPath(d.path))
	}
	if d.sessions != nil {
		options = append(options, health.WithBFD(d.sessions.find))
	}
	return health.New(t, options...)
}

// Serving is closed once the socket answers: the data path holds its first
// state, and the VIPs are there.
func (d *Daemon) Serving() <-chan struct{} { return d.admin.Up() }

// Run runs until ctx ends or a part fails. There are two circles: what faces
// the outside (VRRP, the socket) stops first; what it needs (data path, checks,
// addresses) serves until it has stopped, so that a resigning master forwards
// until its successor does. Notes are written, and hooks
// run, until the very end.
//
// A start that fails takes down nothing that was there before. After that
// nothing that is served is taken down either: it waits for a successor, see
// [config.Config.StopGrace].
func (d *Daemon) Run(ctx context.Context) error {
	began := time.Now()
	record, notes, inner := newCircle(ctx), newCircle(ctx), newCircle(ctx)
	record.start("history", d.history.Run) // of what could not be told at the end too
	notes.start("notes", d.vips.holder.Run)
	notes.start("notes of a real server", d.silent.notes.Run)
	notes.start("notes of virtual routers", d.left.run)
	notes.start("notifications", d.notifier.Run) // of the end too
	inner.start("neighbours", d.neigh.Run)
	inner.start("announcements", d.announce.Run)
	inner.start("interfaces", d.links.run)
	inner.start("VIPs", d.vips.Run)
	inner.start("checks", d.monitor.Run)
	d.sessions.start(inner)
	inner.start("director", d.director.Run)
	if d.losses != nil {
		inner.start("losses", d.losses.run)
	}
	inner.start("first VIPs", d.awaitVIPs)
	how, err := d.face(ctx, inner, began)
	d.sessions.foresee(how == endRestarted || how == endUndone && d.found.datapath)
	return errors.Join(err, inner.stop(), d.finish(ctx, how), notes.stop(), record.stop())
}

// awaitVIPs closes ready when the director is, and it is known of every VIP
// whether another host has it: then those that can be served are there.
func (d *Daemon) awaitVIPs(ctx context.Context) error {
	for _, c := range []<-chan struct{}{d.director.Ready(), d.vips.claims.allAsked} {
		select {
		case <-c:
		case <-ctx.Done():
			return nil
		}
	}
	if d.retire != nil {
		if err := d.retire(ctx); err != nil {
			d.log.Warn("what an earlier daemon served by is still there", "err", err)
		}
	}
	close(d.ready)
	<-ctx.Done()
	return nil
}

// face runs what faces the outside, from when the data path holds its first
// state until ctx ends or a part fails, also one of the inner circle. It
// returns how all of it has to end.
func (d *Daemon) face(ctx context.Context, inner *circle, began time.Time) (ending, error) {
	select {
	case <-d.director.Applied():
	case <-inner.failed():
		return endUndone, nil
	case <-ctx.Done():
		return endUndone, nil
	}
	outer := newCircle(ctx)
	d.router.bearUntilChecked(began)
	if d.sync != nil {
		d.sync.hold.anew(func() {}) // before VRRP could preempt
	}
	outer.start("vrrp", d.router.Run)
	outer.start("admin", d.admin.Run)
	if d.routes != nil {
		outer.start("bgp", d.routes.run)
	}
	if d.sync != nil {
		inner.start("sync", d.sync.run)
	}
	if d.syncDaemons != nil {
		inner.start("sync daemons", d.syncDaemons.run)
	}
	outer.start("reload", d.reloadWhenAsked)
	outer.start("readiness", d.sayReady)
	outer.start("doctor", d.examine)
	how := d.await(ctx, outer, inner)
	handedOver := func() {}
	if d.sync != nil && how == endStopped {
		handedOver = d.sync.leave(leaveTime)
	}
	if d.routes != nil && how == endStopped {
		d.routes.leave(context.WithoutCancel(ctx))
	}
	if d.follower.isNone() {
		d.log.Info("stopping")
		d.note("stops")
		d.notifySystemd(daemon.SdNotifyStopping)
	} else {
		d.log.Info("starting anew in place")
		d.note("starts anew in place")
		d.notifySystemd(daemon.SdNotifyReloading)
	}
	if how == endRestarted || how == endUndone && d.found.datapath {
		d.router.Abandon(d.nextRouters())
	}
	err := outer.stop()
	handedOver()
	return how, err
}

// await waits for the end and decides what kind it is. A part that fails in a
// daemon that serves ends it as a restart does: somebody will start it again.
func (d *Daemon) await(ctx context.Context, outer, inner *circle) ending {
	failed := false
	select {
	case <-outer.failed():
		failed = true
	case <-inner.failed():
		failed = true
	case d.follower = <-d.next:
		return endRestarted
	case <-ctx.Done():
	}
	select {
	case <-d.Serving():
	default:
		return endUndone
	}
	if failed {
		return endRestarted
	}
	return d.chooseEnding(ctx)
}

func (d *Daemon) reloadWhenAsked(ctx context.Context) error {
	for {
		select {
		case <-d.opt.Reload:
			d.notifySystemd(daemon.SdNotifyReloading)
			_, _ = d.director.Reload(ctx) // it logs by itself and shows in the status
			d.notifySystemd(daemon.SdNotifyReady)
		case <-ctx.Done():
			return nil
		}
	}
}

// note adds to the history what becomes of the daemon itself.
func (d *Daemon) note(text string) {
	d.history.Add(history.Event{Kind: history.Daemon, Subject: "lvx", Text: text})
}

// noteStart says in the history whether the start was a fresh one.
func (d *Daemon) noteStart() {
	text := d.opt.Version + " serves"
	if d.found.datapath {
		text += ", and goes on with what an earlier daemon left"
	}
	d.note(text)
}

func (d *Daemon) sayReady(ctx context.Context) error {
	select {
	case <-d.Serving():
		if d.opt.Served != nil {
			d.opt.Served()
		}
		d.noteStart()
		d.log.Info("serving", "services", len(d.opt.Config.Services), "socket", d.opt.Config.Admin.Socket)
		d.notifySystemd(daemon.SdNotifyReady)
	case <-ctx.Done():
	}
	<-ctx.Done()
	return nil
}
