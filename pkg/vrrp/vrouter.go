package vrrp

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// vrouter is one virtual router on the advert thread: its machine, what the
// machine needs, and what its status shows.
type vrouter struct {
	key     key
	cfg     Instance
	m       *Machine
	group   Group
	cond    Condition
	conn    *conn
	connErr error // why there is none
	index   int   // of the interface
	started bool
	leaving bool
	resumes bool // it is in the place of a master that served

	recovering bool // a fault of an interface is over, checks have not answered since
	recoveries int

	worker       *worker
	wantedGen    uint64 // of the last job given to the worker
	doneGen      uint64 // of the last job that the worker has done
	doneAt       time.Time
	queued       queuedAdverts // adverts that the kernel will send by itself
	sentByKernel bool          // the advert of this tick is one of them

	since          time.Time
	peers          map[netip.Addr]Peer
	dropped        map[Reason]uint64
	warning        string
	warnUntil      time.Time // the cause has ended if it has not come again by then
	warnsOfClaim   bool      // the cause is another host's ARP
	routingTrouble string    // what is wrong with the routes and rules
	rejected       uint64    // rejected since junkSaid
	rejectedLogged time.Time // when a rejection was last logged
	errorLogged    time.Time
	dirty          bool
	public         atomic.Pointer[publicStatus]
}

type publicStatus struct {
	Status
	warnUntil      time.Time
	routingTrouble string
}

const (
	maxPeers = 16          // remembered per virtual router
	quiet    = time.Minute // between two log lines about the same trouble

	minWarning   = 10 * time.Second // how long a warning outlives its last cause, at least
	claimWarning = 30 * time.Second // as claims are reported every ten seconds
)

// newVrouter makes a virtual router with a worker of its own.
func newVrouter(l *loop, it item) *vrouter {
	w := newWorker(l.opts, nil)
	w.done = func(gen uint64, added int, err error) { l.runSoon(func() { l.finishJob(w.owner, gen, added, err) }) }
	w.routed = func(err error) { l.runSoon(func() { l.finishRouting(w.owner, err) }) }
	l.workers.Go(w.run)
	return newVrouterOn(w, it)
}

func newVrouterOn(w *worker, it item) *vrouter {
	v := &vrouter{
		key: it.cfg.key(), cfg: it.cfg, m: NewMachine(it.cfg), worker: w, since: time.Now(), dirty: true,
		peers: map[netip.Addr]Peer{}, dropped: map[Reason]uint64{},
	}
	w.owner = v
	return v
}

func sameInstance(a, b Instance) bool { return reflect.DeepEqual(a, b) }

// isIdle reports whether the worker has done all it was asked for.
func (v *vrouter) isIdle() bool { return v.wantedGen == v.doneGen }

// handleDatagram judges a datagram for this virtual router. A rejected one is counted
// and changes nothing.
func (v *vrouter) handleDatagram(l *loop, d datagram, now time.Time) {
	p, err := v.parseDatagram(d)
	if err != nil {
		v.countRejected(l, err.(Reason), d.src, now)
		return
	}
	if _, known := v.peers[d.src]; !known && len(v.peers) >= maxPeers {
		clear(v.peers)
	}
	v.peers[d.src] = Peer{Addr: d.src, Priority: p.Priority, Seen: now}
	v.dirty = true
	var stoodStill []*vrouter
	for _, o := range l.routers {
		if o.m.hasStoodStill(now) {
			stoodStill = append(stoodStill, o)
		}
	}
	l.step(v, Heard{From: d.src, Priority: p.Priority, Interval: p.Interval}, now)
	for _, o := range stoodStill {
		if o.m.Role() == Backup {
			l.startRecovery(o)
			l.updateCondition(o, now)
		}
	}
}

func (v *vrouter) parseDatagram(d datagram) (Packet, error) {
	switch {
	case d.ttl != 255:
		return Packet{}, BadTTL
	case d.src == v.cond.Self:
		return Packet{}, OwnAddress
	}
	p, err := Parse(d.payload, d.src, d.dst)
	if err == nil {
		err = v.cfg.Accepts(p, d.src, d.dst)
	}
	return p, err
}

func (v *vrouter) countRejected(l *loop, why Reason, src netip.Addr, now time.Time) {
	v.dropped[why]++
	v.dirty = true
	v.rejected++
	if what := why.foreignText(); what != "" {
		v.setWarning(fmt.Sprintf("another host (%s) claims virtual router %d with %s", src, v.cfg.VRID, what), now.Add(max(3*v.cfg.AdvertInterval, minWarning)))
	}
	if now.Sub(v.rejectedLogged) >= quiet {
		l.logLater(slog.LevelWarn, "advertisement rejected", slog.String("instance", v.cfg.Name),
			slog.String("from", src.String()), slog.String("reason", string(why)), slog.Uint64("count", v.rejected))
		v.rejected, v.rejectedLogged = 0, now
	}
}

// setWarning warns until the cause must have come again.
func (v *vrouter) setWarning(text string, until time.Time) {
	v.warning, v.warnUntil, v.warnsOfClaim, v.dirty = text, until, false, true
}

// handleClaim takes note of another host that uses a VIP of v, an active
// master. While roles change hands, and while another router of this virtual
// router speaks, that host is a peer which has not heard yet.
func (v *vrouter) handleClaim(addr netip.Addr, by string, now time.Time) {
	recent := max(3*v.cfg.AdvertInterval, time.Second)
	if now.Sub(v.since) < recent {
		return
	}
	for _, p := range v.peers {
		if now.Sub(p.Seen) < recent {
			return
		}
	}
	v.setWarning(fmt.Sprintf("another host (%s) uses our address %s", by, addr), now.Add(claimWarning))
	v.warnsOfClaim = true
}

// publishStatus makes the current state visible to Status.
func (v *vrouter) publishStatus() {
	if !v.dirty {
		return
	}
	v.dirty = false
	s := publicStatus{warnUntil: v.warnUntil, routingTrouble: v.routingTrouble, Status: Status{
		Instance: v.cfg.Name, Role: v.m.Role(), Since: v.since, Why: v.m.why, Priority: v.m.Priority(),
		Warning: v.warning, Dropped: map[string]uint64{},
	}}
	for why, n := range v.dropped {
		s.Dropped[string(why)] = n
	}
	s.Peers = slices.SortedFunc(maps.Values(v.peers), func(a, b Peer) int { return a.Addr.Compare(b.Addr) })
	v.public.Store(&s)
}

// step gives one input to a machine and does what its group wants done.
func (l *loop) step(v *vrouter, in Input, now time.Time) {
	v.dirty = true
	for _, s := range v.group.Step(v.m, in, now) {
		i := slices.IndexFunc(l.routers, func(o *vrouter) bool { return o.m == s.Machine })
		l.doAction(l.routers[i], s.Action, now)
	}
}

func (l *loop) doAction(v *vrouter, a Action, now time.Time) {
	v.dirty = true
	if !v.m.Active() || v.m.stopping {
		l.cancelAdverts(v) // first: nothing may follow a resignation
	}
	switch a := a.(type) {
	case Advertise:
		l.advertise(v, a.Priority, now)
	case Resign:
		l.sendAdverts(v, 0, now)
	case Take:
		l.giveJob(v, job{serve: true})
	case Drop:
		l.giveJob(v, job{linger: a.Linger})
	case Leave:
		l.giveJob(v, job{leave: true})
	case Announce:
		v.worker.askAnnounce()
	case Change:
		v.since = now
		if v.warnsOfClaim { // it was about the role before
			v.setWarning("", time.Time{})
		}
		l.sendEvent(Event{Instance: v.cfg.Name, Old: a.Old, New: a.New, Why: a.Why, At: now})
		l.logLater(slog.LevelInfo, "transition", slog.String("instance", v.cfg.Name),
			slog.String("from", a.Old.String()), slog.String("to", a.New.String()), slog.String("why", a.Why))
	}
}

// giveJob gives the worker of v a job, which replaces one that waits.
func (l *loop) giveJob(v *vrouter, j job) {
	v.wantedGen++
	j.gen, j.cfg, j.places = v.wantedGen, v.cfg, l.placesOf(v)
	j.keep, j.keepRouting = l.vipsOfOthers(v), l.routingOfOthers(v)
	j.isNamesake = slices.ContainsFunc(l.routers, func(o *vrouter) bool { return o != v && !o.leaving && o.cfg.Name == v.cfg.Name })
	v.worker.setJob(j)
}

// place is VIPs and the interface that they go on.
type place struct {
	Place
	index int // of the interface; 0: there is none
}

// placesOf lists where the VIPs of v go on this host.
func (l *loop) placesOf(v *vrouter) []place {
	var all []place
	for _, p := range v.cfg.Places() {
		all = append(all, place{p, l.links[p.Interface].index})
	}
	return all
}

// vipsOfOthers lists, by interface, the VIPs that other virtual routers need:
// while one is on its way out another may have taken over its addresses.
func (l *loop) vipsOfOthers(v *vrouter) map[string][]netip.Prefix {
	others := map[string][]netip.Prefix{}
	for _, o := range l.routers {
		if o == v || o.leaving {
			continue
		}
		for _, p := range o.cfg.Places() {
			others[p.Interface] = append(others[p.Interface], p.VIPs...)
		}
	}
	return others
}

// routingOfOthers is what other masters of this host have for routes and rules.
func (l *loop) routingOfOthers(v *vrouter) (all vips.Routing) {
	for _, o := range l.routers {
		if o != v && !o.leaving && o.m.Role() == Master {
			all.Routes = append(all.Routes, o.cfg.Routing.Routes...)
			all.Rules = append(all.Rules, o.cfg.Routing.Rules...)
		}
	}
	return all
}

// finishRouting is the worker's answer about routes and rules. One that the
// kernel does not take is a warning until it is there.
func (l *loop) finishRouting(v *vrouter, err error) {
	text := ""
	if err != nil {
		text = "routes or rules are not as wanted: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	if text == v.routingTrouble {
		return
	}
	v.routingTrouble, v.dirty = text, true
	if err != nil {
		l.logLater(slog.LevelWarn, "routes or rules of the VIPs are not as wanted", slog.String("instance", v.cfg.Name), slog.Any("error", err))
	}
}

// finishJob is the worker's answer.
func (l *loop) finishJob(v *vrouter, gen uint64, added int, err error) {
	if err != nil {
		l.logLater(slog.LevelError, "VIPs or data path not as wanted", slog.String("instance", v.cfg.Name), slog.Any("error", err))
	}
	if gen != v.wantedGen {
		return // there is a newer job
	}
	now := time.Now()
	v.doneGen, v.doneAt = gen, now
	if v.m.Role() != Master {
		return
	}
	switch {
	case err != nil:
		l.step(v, Failed{err}, now)
	case !v.m.Active() || added > 0:
		l.step(v, Ready{}, now)
	}
}

// advertise sends one advertisement to the group or to each peer, and
// renews the lease with it: also with the resignation, whose sender serves
// until a successor has spoken.
func (l *loop) advertise(v *vrouter, priority uint8, now time.Time) {
	if l.opts.Lease != nil {
		lease := v.cfg.leaseTime(v.m.Priority())
		if v.m.stopping {
			lease = v.cfg.resignedLease(v.m.Priority())
		}
		l.opts.Lease(v.cfg.Name, lease)
	}
	if v.sentByKernel {
		return
	}
	l.queueAdverts(v) // first: sending may cost the thread its processor, and who speaks once goes on speaking
	l.sendAdverts(v, priority, now)
}

func (l *loop) sendAdverts(v *vrouter, priority uint8, now time.Time) {
	l.send(v, v.adverts(priority), now)
}

func (l *loop) send(v *vrouter, adverts []advert, now time.Time) {
	for _, m := range adverts {
		if err := m.conn.send(m.src, m.dst, m.packet); err != nil {
			l.reportSendError(v, err, now)
		}
	}
}

// adverts are what an advertisement of v consists of.
func (v *vrouter) adverts(priority uint8) []advert {
	return v.advertsOf(v.cfg.advertPacket(priority))
}

// restartInterval is the advert interval that a master names at last before it starts
// anew, if its own is shorter: of version 3 backups wait for three times the interval
// that they have heard (RFC 5798 section 6.1), and a start takes longer than three
// short ones.
const restartInterval = time.Second

// askForPatience has the backups of a master that starts anew wait for longer than
// for a dead one, and the data path serve for as much longer. Backups of version 2 know
// their own interval alone, which is a second or more.
func (l *loop) askForPatience(v *vrouter, now time.Time) {
	longer := restartInterval - v.cfg.AdvertInterval
	if v.cfg.Version != 3 || longer <= 0 || !v.m.Active() || v.m.stopping {
		return
	}
	if l.opts.Lease != nil {
		l.opts.Lease(v.cfg.Name, v.cfg.leaseTime(v.m.Priority())+3*longer)
	}
	p := v.cfg.advertPacket(v.m.Priority())
	p.Interval = restartInterval
	l.send(v, v.advertsOf(p), now)
}

func (v *vrouter) advertsOf(p Packet) (ms []advert) {
	if v.conn == nil || !v.cond.Self.IsValid() {
		return nil
	}
	to := v.cfg.UnicastPeers
	if len(to) == 0 {
		to = []netip.Addr{v.cfg.groupAddr()}
	}
	for _, dst := range to {
		// A validated instance can be encoded.
		if b, err := p.Append(nil, v.cond.Self, dst); err == nil {
			ms = append(ms, advert{v.conn, v.cond.Self, dst, b})
		}
	}
	return ms
}

func (l *loop) reportSendError(v *vrouter, err error, now time.Time) {
	if now.Sub(v.errorLogged) >= quiet {
		v.errorLogged = now
		l.logLater(slog.LevelWarn, "advertisement not sent", slog.String("instance", v.cfg.Name), slog.Any("error", err))
	}
}

// queueAdverts has the kernel send the coming adverts of a master on time.
func (l *loop) queueAdverts(v *vrouter) {
	if l.queue == nil || !v.m.Active() || v.m.stopping {
		return
	}
	if err := l.queue.fill(v, v.adverts(v.m.Priority()), v.m.nextAdvert, v.cfg.AdvertInterval); err != nil {
		l.closeQueue(err)
	}
}

// cancelAdverts takes queued adverts back.
func (l *loop) cancelAdverts(v *vrouter) {
	if l.queue == nil || len(v.queued.slots) == 0 {
		return
	}
	if err := l.queue.cancelQueued(&v.queued); err != nil {
		l.closeQueue(err)
	}
}

// closeQueue goes on without the advert queue.
func (l *loop) closeQueue(err error) {
	l.logLater(slog.LevelWarn, "adverts are timed by the daemon itself from now on", slog.Any("error", err))
	l.queue.close()
	l.queue, l.closedQueue = nil, l.queue
	for _, v := range l.routers {
		v.queued = queuedAdverts{}
	}
}
