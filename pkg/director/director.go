package director

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/notify"
	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Health asks real servers; [health.Monitor] is one.
type Health interface {
	Set(targets []health.Target)
	Restore(known map[health.Target]health.Status)
	Snapshot() map[health.Target]health.Status
	Events() <-chan health.Event
}

// VRRP decides who owns virtual addresses; [vrrp.Router] is one.
type VRRP interface {
	Set(instances []vrrp.Instance) error
	SetTracked(service string, ok bool)
	Status() []vrrp.Status
	Events() <-chan vrrp.Event
}

// HeldVIP is a VIP that the director itself holds.
type HeldVIP struct {
	Addr  netip.Addr
	Force bool // whoever has it
	Quiet bool // on lo, and nobody is told by ARP: BGP leads packets here
}

// VIPs holds addresses that no VRRP instance names on interfaces and announces
// them.
type VIPs interface {
	// Hold makes the host own exactly these addresses, each on the one of
	// the interfaces that it belongs to, unless another host has it. It is
	// idempotent; addresses that were there before are left alone.
	Hold(interfaces []string, vips []HeldVIP) error
	// Keep takes off what Hold has put on, in an earlier run of the daemon, too,
	// but for these addresses.
	Keep(vips map[netip.Addr]bool) error
}

// Neigh finds the MACs of real servers for the backend; [neigh.Resolver] is
// one.
//
// [neigh.Resolver]: https://pkg.go.dev/github.com/lvx-lb/lvx/pkg/neigh
type Neigh interface {
	Watch(reals []netip.Addr)
	Bind(macs map[netip.Addr][6]byte) // these are not asked for, and never move
	Avoid(vips []netip.Addr)          // nothing is asked in the name of a VIP
	Changed() <-chan struct{}
	Resolved(servers []netip.Addr) bool     // all of these, being watched, were found
	Local(real netip.Addr) (is, known bool) // it is this host
}

// Notifier tells people about changes; [notify.Notifier] is one. It must not
// block.
type Notifier interface {
	Notify(e notify.Event)
	Counters() notify.Counters // what became of the messages
}

// Options are what a [Director] works with. Config, Load, Backend and Health
// are required.
type Options struct {
	Config  *config.Config                       // to start with
	Load    func() (*config.Config, error)       // reads the file again, for a reload; with an error of this host's, not the file's, it gives the configuration too
	Parse   func([]byte) (*config.Config, error) // reads another file's text, to compare with; nil = cannot
	Text    func() []byte                        // what Load has read last; nil = cannot say
	Source  []byte                               // the text of Config; nil = not known
	Backend lb.Backend                           // the director is its only user until Run returns
	Health  Health
	VRRP    VRRP     // nil = no instances can be configured
	VIPs    VIPs     // nil = addresses are somebody else's business
	Notify  Notifier // nil = nobody is told
	Neigh   Neigh    // nil = the backend needs no MACs
	Silent  Silent   // nil = this host is no real server

	// Renew has the daemon start anew with a configuration that changes what it
	// is made of: soon, not before the caller has its answer. nil = a reload
	// refuses such a configuration.
	Renew func(file File)
	// Refused is why a configuration that was to be in force by now is not.
	Refused error

	Firewall Firewall // nil = nothing gets past it
	Marks    Marks    // nil = services by mark have no listeners

	ProbeVIP bool   // see [Targets]
	Version  string // for status
	Boot     string // the kernel's boot_id: what is remembered of another boot is not believed
	Log      *slog.Logger

	Sync Sync // nil = connections are not shared
	// SyncDaemons run what ipvsadm starts; nil = nothing can share connections.
	SyncDaemons SyncDaemons
	Routes      Routes // nil = nothing is announced by BGP
	// Losses says what was lost behind the packet path; nil = nobody knows.
	Losses func() []Loss
	BFD    func() []BFDStatus // nil = no BFD session of the file

	Warnings *warnings.Registry // nil = the director has its own
	History  *history.Log       // nil = kept in memory only
}

// File is a configuration as it was read.
type File struct {
	Config *config.Config
	Text   []byte // nil = not known
}

// Director is the one loop. Its methods may be called from any goroutine
// while Run runs; they wait for their turn.
type Director struct {
	opt           Options
	log           *slog.Logger
	calls         chan func(context.Context)
	roles         chan roleChange
	applied       chan struct{}                 // closed after the first Apply
	ready         chan struct{}                 // closed when the VIPs are there
	done          chan struct{}                 // closed when Run returns
	configChanged chan struct{}                 // a configuration was adopted: inspect again
	current       atomic.Pointer[config.Config] // that is in force, for every goroutine
	leases        atomic.Pointer[map[string]uint32]

	markReading sync.Mutex // guards opt.Marks
	reloading   sync.Mutex // the file is read by one at a time, and that which is read last is in force last
	warnings    *warnings.Registry
	history     *history.Log

	// Owned by the goroutine of Run.
	cfg           *config.Config
	placedConfig  *config.Config // the configuration whose addresses are watched and on the interface; nil = not known
	notes         notes
	broken        map[string]string // files that were broken, and where they are now; not changed once Run serves
	file          *config.Config    // as it was read; cfg is the file with the runtime layer
	renewing      *File             // that the daemon starts anew with; nil = it does not
	text          []byte            // of the file, nil = not known
	runtime       Runtime           // the layer
	marks         marks
	overrides     Overrides
	maintenance   maintenance
	out           Planned
	held          *lb.State         // what the backend has taken wholly; nil = not known
	canHoldVIPs   bool              // the servers are found, or had their time: VIPs may attract traffic
	active        map[string]bool   // VRRP instances that this host forwards for
	roleChanges   map[string]uint64 // by VRRP instance
	tracked       map[string]bool   // which services can serve, as VRRP was told last
	silent        []SilentVIP       // VIPs that this host is a real server of
	silentErr     string            // why this host is no real server of its VIPs
	meter         lb.Meter
	unanswered    unansweredReals
	retryTimer    *time.Timer
	throttleTimer *time.Timer
	lastTurn      time.Time
	lastTurnTook  time.Duration
	retryPause    time.Duration // until the retry after the next failure; 0 = all is well
	fault         string        // why the kernel does not hold the plan
	faults        uint64
	reload        ReloadStatus
	started       time.Time
}

// New makes a director; nothing happens until Run.
func New(opt Options) *Director {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Warnings == nil {
		opt.Warnings = warnings.New(opt.Log)
	}
	if opt.History == nil {
		opt.History = history.New("", nil)
	}
	opt.Warnings.OnChange(func(w warnings.Warning, began bool) {
		text := w.Text
		if !began {
			text = "no longer: " + text
		}
		opt.History.Add(history.Event{Kind: history.Warning, Subject: w.Subject, Text: text})
	})
	d := &Director{
		warnings: opt.Warnings, history: opt.History, broken: map[string]string{},
		opt:           opt,
		log:           opt.Log.With("component", "director"),
		calls:         make(chan func(context.Context)),
		roles:         make(chan roleChange),
		applied:       make(chan struct{}),
		ready:         make(chan struct{}),
		done:          make(chan struct{}),
		configChanged: make(chan struct{}, 1),
		cfg:           opt.Config,
		file:          opt.Config,
		text:          opt.Source,

		active:  map[string]bool{},
		tracked: map[string]bool{}, roleChanges: map[string]uint64{},
	}
	d.current.Store(opt.Config)
	return d
}

// Config is the configuration that is in force.
func (d *Director) Config() *config.Config { return d.current.Load() }

// FileToRenew is the configuration as it was read, without the edits of ipvsadm that
// [Director.Config] has, for a daemon that is to start anew with it: what is read from now
// on is what the daemon starts with instead.
func (d *Director) FileToRenew(ctx context.Context) (file File, err error) {
	err = d.do(ctx, func(context.Context) error {
		d.renewing = cmp.Or(d.renewing, &File{d.file, d.text})
		file = *d.renewing
		return nil
	})
	return file, err
}

// Applied is closed once the backend holds the first plan: VRRP may start.
func (d *Director) Applied() <-chan struct{} { return d.applied }

// Ready is closed once, beyond that, the servers are found or had a second
// to answer, and the VIPs are there: the first packets find what is listed.
func (d *Director) Ready() <-chan struct{} { return d.ready }

// Lease is the number of a VRRP instance's lease (see [lb.Lease]); it is
// valid once Applied is closed, or the instance was added by a reload.
func (d *Director) Lease(instance string) (uint32, bool) {
	ids := d.leases.Load()
	if ids == nil {
		return 0, false
	}
	id, ok := (*ids)[instance]
	return id, ok
}

// publishLeases makes the numbers of a plan's leases those that [Director.Lease]
// gives, and returns the ones before. What is pointed to is a copy of its own:
// the plan in force is written over by the next one while others read.
func (d *Director) publishLeases(m Memory) (before *map[string]uint32) {
	return d.leases.Swap(&m.Leases)
}

// Run applies the configuration and keeps it applied until ctx ends. An
// error means that the start failed: later ones are shown in the status and
// retried. What the backend holds at the end stays there; closing it is the
// caller's.
func (d *Director) Run(ctx context.Context) error {
	defer close(d.done)
	d.started = time.Now()
	d.reload = ReloadStatus{At: d.started}
	if d.opt.Refused != nil {
		d.noteRefusal(d.opt.Refused, nil)
	}
	d.retryTimer = time.NewTimer(time.Hour)
	d.retryTimer.Stop()
	d.throttleTimer = time.NewTimer(time.Hour)
	d.throttleTimer.Stop()
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.openNotes()
	if err := d.start(ctx); err != nil {
		return err
	}
	close(d.applied)
	d.keepNotes(ctx, workers.Go)
	if d.opt.Marks != nil {
		workers.Go(func() { d.watchMarks(ctx) })
	}
	if d.opt.Firewall != nil {
		workers.Go(func() { d.watchFirewall(ctx) })
	}
	return d.loop(ctx)
}

func (d *Director) start(ctx context.Context) error {
	d.loadOverrides()
	d.loadMaintenance()
	d.loadRuntime()
	d.out.Memory = d.loadMemory()
	for _, instance := range slices.Concat(d.out.Memory.Active, inheritRoles(d.cfg, d.opt.Backend)) {
		d.active[instance] = true
	}
	d.opt.Health.Restore(presetChecks(d.cfg, d.opt.ProbeVIP, d.out.Memory, d.started))
	d.opt.Health.Set(Targets(d.cfg, d.opt.ProbeVIP))
	err := d.adoptConfig(ctx, d.cfg)
	if err != nil && !d.runtime.IsEmpty() && ctx.Err() == nil {
		err = d.startWithoutRuntime(ctx, err)
	}
	return err
}

// applyPlan plans and makes the backend follow. onApplied is called with the
// backend's result before anybody is notified.
func (d *Director) applyPlan(ctx context.Context, onApplied func(error)) error {
	before := d.out
	d.out = Plan(d.input(d.cfg))
	d.publishLeases(d.out.Memory)
	err := d.applyState(ctx, d.out.State)
	d.announceState(err)
	onApplied(err)
	d.notifyChanges(before, d.out)
	d.trackServices()
	d.warnOfOverrides(before.Stale)
	d.saveMemory(before.Memory)
	return err
}

func ignoreResult(error) {}

func (d *Director) input(cfg *config.Config) Input {
	return Input{
		Config:    cfg,
		Health:    d.opt.Health.Snapshot(),
		Active:    d.active,
		Overrides: d.overrides,
		Memory:    d.out.Memory,
		ProbeVIP:  d.opt.ProbeVIP,
	}
}

// holdVIPs puts the VIPs that nobody else holds on the interface.
func (d *Director) holdVIPs(cfg *config.Config, vips []lb.VIP) error {
	if d.opt.VIPs == nil || !d.canHoldVIPs {
		return nil
	}
	return d.opt.VIPs.Hold(cfg.Interfaces, heldHere(cfg, vips))
}

// watchServers has the MACs of every server looked up that may be sent to.
func (d *Director) watchServers(cfg *config.Config, vips []lb.VIP) {
	if d.opt.Neigh != nil {
		d.opt.Neigh.Avoid(addrsOf(vips))
		d.opt.Neigh.Bind(cfg.MACs)
		d.opt.Neigh.Watch(neighbours(cfg))
	}
}

// inputOf is the input of the plan for another configuration than the running one.
func (d *Director) inputOf(cfg *config.Config) Input {
	in := d.input(cfg)
	in.Active, in.Memory.Leases = followNames(d.cfg.VRRP, cfg.VRRP, d.active, d.out.Memory.Leases)
	in.Active = keepHeld(d.cfg.VRRP, cfg.VRRP, d.out.State.VIPs, in.Active)
	return in
}

// adoptConfig makes cfg the running configuration, wholly or not at all: on error
// the one before is in force again. The backend comes first, then addresses,
// so that no VIP attracts traffic before its state is there; VIPs that go leave their
// interfaces before the backend forgets them.
func (d *Director) adoptConfig(ctx context.Context, cfg *config.Config) error {
	in := d.inputOf(cfg)
	out := Plan(in)
	if isAny, err := d.retireRouters(ctx, cfg, out.State.VIPs); err != nil {
		return err
	} else if isAny {
		in = d.inputOf(cfg)
		out = Plan(in)
	}
	old := d.publishLeases(out.Memory)
	if err := d.enforceState(ctx, cfg, out.State); err != nil {
		if old == nil { // the start: nothing ran before
			return err
		}
		d.leases.Store(old)
		if back := d.enforceState(ctx, d.cfg, d.out.State); back != nil {
			d.recordFailure(back)
			return fmt.Errorf("%w; and going back: %w", err, back)
		}
		return err
	}
	before := d.out
	d.cfg, d.out, d.active = cfg, out, in.Active
	d.current.Store(cfg)
	d.notifyChanges(before, out)
	d.trackServices()
	d.warnOfOverrides(before.Stale)
	d.saveMemory(before.Memory)
	d.serveSilently(false)
	d.warnOfConfig()
	d.recordSuccess()
	d.announceState(nil)
	select {
	case d.configChanged <- struct{}{}:
	default:
	}
	return nil
}

func (d *Director) enforceState(ctx context.Context, cfg *config.Config, s lb.State) error {
	known := d.placedConfig != nil && sameAddresses(cfg, d.placedConfig)
	if !known { // with thousands of them, doing it again would be most of a reload
		d.placedConfig = nil
		d.watchServers(cfg, s.VIPs)
	}
	if !known && d.opt.VIPs != nil {
		if err := d.opt.VIPs.Keep(addressesOf(s.VIPs)); err != nil {
			return err
		}
	}
	if d.held == nil || !d.held.Equal(&s) { // a reload that changes nothing writes nothing; the drift pass repairs
		if err := d.applyState(ctx, s); err != nil {
			return err
		}
	}
	if err := d.setVRRP(cfg); err != nil || known {
		return err
	}
	if err := d.holdVIPs(cfg, s.VIPs); err != nil {
		return err
	}
	if d.canHoldVIPs {
		d.placedConfig = cfg
	}
	return nil
}

// applyState has the backend hold a state.
func (d *Director) applyState(ctx context.Context, s lb.State) error {
	d.held = nil
	if err := d.opt.Backend.Apply(ctx, s); err != nil {
		return err
	}
	d.held = &s
	return nil
}

func (d *Director) setVRRP(cfg *config.Config) error {
	if d.opt.VRRP == nil {
		if len(cfg.VRRP) > 0 {
			return errors.New("vrrp: no router runs here")
		}
		return nil
	}
	if err := d.opt.VRRP.Set(d.virtualRouters(cfg)); err != nil {
		return fmt.Errorf("vrrp: %w", err)
	}
	return nil
}

// trackServices reports to VRRP which services can serve, as far as that has
// changed.
func (d *Director) trackServices() {
	if d.opt.VRRP == nil {
		return
	}
	for i := range d.out.Services {
		s := &d.out.Services[i]
		if ok, known := d.tracked[s.Name]; !known || ok != s.Quorum {
			d.opt.VRRP.SetTracked(s.Name, s.Quorum)
			d.tracked[s.Name] = s.Quorum
		}
	}
	if len(d.tracked) > len(d.out.Services) { // some are gone: should they return, that is news
		there := make(map[string]bool, len(d.out.Services))
		for i := range d.out.Services {
			there[d.out.Services[i].Name] = true
		}
		maps.DeleteFunc(d.tracked, func(service string, _ bool) bool { return !there[service] })
	}
}
