package neigh

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	settleTime = 20 * time.Millisecond // changes of routing come in groups
	burstSize  = 64                    // questions at a time
	burstGap   = 5 * time.Millisecond  // between bursts

	warnInterval = time.Minute // between warnings about false claims to one real's address
)

// Options of a [Resolver].
type Options struct {
	Log *slog.Logger // nil = slog.Default

	// OnUsable is called from Run with a real that frames can reach and could
	// not reach before. It must not block.
	OnUsable func(real netip.Addr)
}

// Resolver finds the MACs of real servers and keeps them fresh, by ARP and by
// neighbour discovery. It asks every real about every ten seconds, more often
// while an answer is missing, and listens to what the reals say by themselves.
// When another station claims a real's address, the one that had it is asked
// first: the claim counts once that station has been silent for 200 ms.
//
// The user's word comes before all that: a MAC given by [Resolver.Bind], or a
// permanent entry in the kernel's neighbour table, is neither asked for nor
// moved by what stations say. Its methods may be called from every goroutine.
type Resolver struct {
	log      *slog.Logger
	net      network
	onUsable func(netip.Addr)
	changed  chan struct{}
	wake     chan struct{}
	rechecks chan netip.Addr

	version       atomic.Uint64
	followsRoutes atomic.Bool // somebody has asked for the routes
	mu            sync.RWMutex
	want          []netip.Addr
	avoid         map[netip.Addr]bool
	bound         map[netip.Addr]MAC
	silent        map[int]bool // interfaces on which no watched address answers
	entries       map[netip.Addr]Entry
	table         []Route
}

// NewResolver makes a Resolver that watches nothing yet.
func NewResolver(o Options) *Resolver {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := newResolver(o.Log, &liveNetwork{})
	if o.OnUsable != nil {
		r.onUsable = o.OnUsable
	}
	return r
}

func newResolver(log *slog.Logger, n network) *Resolver {
	return &Resolver{
		log:      log.With("component", "neigh"),
		net:      n,
		onUsable: func(netip.Addr) {},
		changed:  make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
		rechecks: make(chan netip.Addr, 256),
		entries:  map[netip.Addr]Entry{},
	}
}

// Watch says which reals are to be resolved, instead of those before.
func (r *Resolver) Watch(reals []netip.Addr) {
	r.mu.Lock()
	r.want = slices.Clone(reals)
	r.mu.Unlock()
	wakeUp(r.wake)
}

// Avoid says which addresses are VIPs. Nothing is asked in their name: a real
// that has the VIP itself takes such a question for its own and is silent.
func (r *Resolver) Avoid(vips []netip.Addr) {
	avoid := make(map[netip.Addr]bool, len(vips))
	for _, v := range vips {
		avoid[v] = true
	}
	r.mu.Lock()
	same := maps.Equal(r.avoid, avoid)
	r.avoid = avoid
	r.mu.Unlock()
	if !same {
		wakeUp(r.wake)
	}
}

// IsVIP reports whether an address is to be avoided.
func (r *Resolver) IsVIP(a netip.Addr) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.avoid[a]
}

// Bind gives the MACs of reals that the configuration names (`mac:`), instead
// of those before.
func (r *Resolver) Bind(macs map[netip.Addr]MAC) {
	r.mu.Lock()
	same := maps.Equal(r.bound, macs)
	r.bound = maps.Clone(macs)
	r.mu.Unlock()
	if !same {
		wakeUp(r.wake)
	}
}

// Recheck has a real asked at once whether it is still where it was: a check
// of it has failed, and its address may have moved without a word.
func (r *Resolver) Recheck(real netip.Addr) {
	select {
	case r.rechecks <- real:
	default: // so many reals fail that the questions of every ten seconds must do
	}
}

// Lookup says how frames reach a real. A real that is not watched, or has not
// been looked at yet, has an entry with an Err.
func (r *Resolver) Lookup(real netip.Addr) Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.entries[real]
	if !ok {
		e.Err, e.Pending = fmt.Sprintf("%s has not been looked for yet", real), true
	}
	return e
}

// Version is another number once [Resolver.Lookup] may give another answer.
func (r *Resolver) Version() uint64 { return r.version.Load() }

// Changed receives when an entry has changed since the last receive. Several
// changes may be one receive.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

// wakeUp fills a channel of capacity one.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run resolves until ctx ends, and then returns nil. It returns an error if
// the host cannot be asked for its routes at all.
func (r *Resolver) Run(ctx context.Context) error {
	events, err := r.net.open()
	if err != nil {
		return fmt.Errorf("neighbour resolution: %w", err)
	}
	defer r.net.close()
	l := &loop{Resolver: r, targets: map[netip.Addr]*target{}}
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			at := l.handleEvent(e, time.Now())
			if at.IsZero() || !at.Before(due) {
				continue
			}
			due = at
		case real := <-r.rechecks:
			t := l.askedFor(real)
			if t == nil {
				continue
			}
			now := time.Now()
			if !t.askSoon(now) {
				continue
			}
			l.askOthers(t, now)
			due = now
		case <-r.wake:
			l.syncTargets()
			l.routesDue = time.Now()
			due = l.runDue(l.routesDue)
		case <-timer.C:
			due = l.runDue(time.Now())
		}
		if l.silenceStale && l.updateSilence(time.Now()) {
			due = time.Now()
		}
		timer.Reset(time.Until(due))
	}
}

// loop is the state of Run.
type loop struct {
	*Resolver
	targets         map[netip.Addr]*target
	routers         map[netip.Addr]bool // that targets are behind
	gateways        map[netip.Addr]bool // of the host's routes, if they are asked for
	routesDue       time.Time           // when to ask for the routes again; zero = not needed
	routesNotBefore time.Time           // events have it asked no sooner
	silenceStale    bool                // a target has begun to miss questions, or has ended to
	wokenAt         time.Time           // when a frame last woke a silent interface
}

// syncTargets takes over what [Resolver.Watch] was told.
func (l *loop) syncTargets() {
	l.mu.RLock()
	want := l.want
	l.mu.RUnlock()
	old := l.targets
	l.targets = make(map[netip.Addr]*target, len(want))
	for _, a := range want {
		if t, ok := old[a]; ok {
			l.targets[a] = t
		} else {
			l.targets[a] = &target{addr: a}
		}
		l.targets[a].isRouter = false
	}
	l.keepRouters(old)
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.entries, func(a netip.Addr, _ Entry) bool { return l.targets[a] == nil })
	l.version.Add(1)
}

// handleEvent takes one thing that happened outside, and returns when there is work
// to do because of it; the zero time if there is none.
func (l *loop) handleEvent(e event, now time.Time) time.Time {
	if e.kind == routesChanged {
		if l.routesDue.IsZero() {
			l.routesDue = now.Add(settleTime)
		}
		if l.routesDue.Before(l.routesNotBefore) {
			l.routesDue = l.routesNotBefore
		}
		return l.routesDue
	}
	t := l.targetOf(e)
	switch {
	case e.kind == spokeItself && l.silent[e.ifindex] && (t == nil || t.path.ifindex != e.ifindex):
		return l.wakeInterface(e.ifindex, now)
	case t == nil || t.path.ifindex != e.ifindex:
		// Not watched, or not where it belongs.
	case t.path.fixed != MAC{}:
		if e.kind == kernelHint {
			// The entry may be permanent no more.
			return l.handleEvent(event{kind: routesChanged}, now)
		}
	case t.due.IsZero():
	case e.kind == kernelHint && e.mac == MAC{}:
		t.askSoon(now)
		return t.due
	case e.kind == kernelHint && t.mac != MAC{} && e.mac != t.mac && e.mac != t.path.mac:
		t.doubtMAC(e.mac, now)
		return t.due
	case e.kind == spokeItself && e.mac != t.path.mac: // else it is this host that speaks in the real's name
		return l.hear(t, e.mac, now)
	}
	return time.Time{}
}

// hear takes a station's word that it has a real's address, and returns when
// there is work to do because of it.
func (l *loop) hear(t *target, mac MAC, now time.Time) time.Time {
	before, rival := t.mac, t.rival
	l.silenceStale = l.silenceStale || t.isMissed()
	switch t.heard(mac, now) {
	case resolved:
		l.logOf(t).Info("real server resolved", "real", t.addr, "device", t.path.device, "mac", mac, "before", before)
	case moved:
		l.logMove(t, before)
	case rejected:
		if now.Sub(t.warned) >= warnInterval {
			t.warned = now
			l.log.Warn("another station claims the address of a real server, which answers where it was",
				"real", t.addr, "device", t.path.device, "mac", mac, "claimed by", rival)
		}
	case doubted:
		return t.due
	case unchanged:
	}
	l.publishEntry(t)
	return time.Time{}
}

func (l *loop) logMove(t *target, before MAC) {
	l.logOf(t).Warn("real server has moved", "real", t.addr, "device", t.path.device, "mac", t.mac, "before", before)
}

// runDue does what is due and returns when there is more.
func (l *loop) runDue(now time.Time) time.Time {
	if !l.routesDue.IsZero() && !now.Before(l.routesDue) {
		l.routesDue = time.Time{}
		l.readRoutes(now)
	}
	next := now.Add(refreshInterval)
	if !l.routesDue.IsZero() {
		next = l.routesDue
	}
	asked := 0
	for _, t := range l.targets {
		if t.due.IsZero() {
			continue
		}
		if before := t.mac; t.endDoubt(now) {
			l.logMove(t, before)
			l.publishEntry(t)
		}
		if !now.Before(t.due) {
			if asked == burstSize {
				return now.Add(burstGap)
			}
			asked++
			l.askTarget(t, now)
		}
		if t.due.Before(next) {
			next = t.due
		}
	}
	// Never sooner than a breath: many reals are one pass, not many.
	if soonest := now.Add(burstGap); next.Before(soonest) {
		next = soonest
	}
	return next
}

// askTarget asks for one real.
func (l *loop) askTarget(t *target, now time.Time) {
	to := t.nextQuestion(now)
	t.sendErr = ""
	if t.unanswered == 2 && t.mac != (MAC{}) {
		l.askOthers(t, now)
	}
	l.silenceStale = l.silenceStale || t.isMissed()
	if err := l.net.ask(to, t.path, t.addr); err != nil {
		t.sendErr = fmt.Sprintf("%s request for %s on %s: %v", t.protocol(), t.addr, t.path.device, err)
	}
	l.publishEntry(t)
}

// readRoutes asks the host for the way to every real.
func (l *loop) readRoutes(now time.Time) {
	l.mu.RLock()
	avoid, bound := l.avoid, l.bound
	l.mu.RUnlock()
	addrs := slices.Collect(maps.Keys(l.targets))
	began := time.Now()
	paths, err := l.net.routes(addrs, avoid, bound)
	if routers := l.addRouters(paths); err == nil && len(routers) > 0 {
		var more []path
		more, err = l.net.routes(routers, avoid, bound)
		addrs, paths = append(addrs, routers...), append(paths, more...)
	}
	if gateways, failed := l.readTable(); err == nil && (failed != nil || len(gateways) > 0) {
		var more []path
		if more, err = l.net.routes(gateways, avoid, bound); failed != nil {
			err = failed
		}
		addrs, paths = append(addrs, gateways...), append(paths, more...)
	}
	l.routesNotBefore = now.Add(5 * time.Since(began)) // thousands of addresses come one by one, each with an event
	if err != nil {
		l.log.Error("routes of the real servers", "error", err)
		l.routesDue = now.Add(retryInterval)
		return
	}
	used := map[segmentKey]bool{}
	l.silenceStale = true
	for i, a := range addrs {
		t := l.targets[a]
		t.setPath(paths[i], now)
		used[segmentKey{t.path.ifindex, a.Is6()}] = true
	}
	l.dropRouters()
	for _, t := range l.targets {
		l.publishEntry(t)
	}
	l.net.keep(used)
}

// publishEntry makes a target's state known if it has changed.
func (l *loop) publishEntry(t *target) {
	e := l.entryOf(t)
	l.mu.Lock()
	old, ok := l.entries[t.addr]
	same := ok && old == e
	if !same { // at once: who has seen the entry sees the version
		l.entries[t.addr] = e
		l.version.Add(1)
	}
	l.mu.Unlock()
	if same {
		return
	}
	wakeUp(l.changed)
	l.publishBehind(t)
	if e.Usable() && !old.Usable() && !t.isRouter {
		l.onUsable(t.addr)
	}
	switch {
	case !t.isUnreachable() || e.Err == old.Err:
	case old.MAC != (MAC{}):
		l.logOf(t).Warn("real server lost", "real", t.addr, "mac", old.MAC, "reason", e.Err)
	default:
		l.logOf(t).Warn("real server not found", "real", t.addr, "reason", e.Err)
	}
}
