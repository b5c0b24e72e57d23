package vrrp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// loop is the advert thread: it owns the machines, receives, and sends on
// time. It never waits for a disk, a log or a lock that another
// thread may hold for long.
type loop struct {
	opts   *Options
	notes  chan<- note
	events chan Event
	shown  *atomic.Pointer[[]*vrouter]

	reasons *atomic.Pointer[holdReasons]

	wakeController func()

	wake  int           // eventfd
	inbox chan func()   // run on the thread
	ended chan struct{} // closed when the thread has ended

	routers     []*vrouter // in the order of the last plan, those on their way out last
	links       links
	services    map[string]bool
	tracked     readings
	waitFor     string // why no backup takes over yet
	bear        string // why none preempts
	stopping    bool
	workers     sync.WaitGroup
	queue       *advertQueue  // nil: the kernel cannot, the thread sends every advert itself
	closedQueue *advertQueue  // kept, because the kernel may still read its memory
	socks       []*conn       // what the virtual routers use
	fds         []unix.PollFd // wake, and one per socks
	buf         [64 << 10]byte
}

func newLoop(r *Router, notes chan<- note) (*loop, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l := &loop{opts: &r.opts, notes: notes, events: r.events, shown: &r.shown, reasons: &r.reasons, wake: wake,
		wakeController: r.wakeController, inbox: make(chan func(), 256), ended: make(chan struct{})}
	l.collectSockets()
	return l, nil
}

func (l *loop) closeWake() { unix.Close(l.wake) }

// runSoon has f run on the thread soon, or never if the thread has ended.
func (l *loop) runSoon(f func()) bool {
	select {
	case l.inbox <- f:
	case <-l.ended:
		return false
	}
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1} // not zero in either byte order; full is as good as set
	_, _ = unix.Write(l.wake, one[:])
	return true
}

// runAndWait is post that waits for f; it reports whether f has run.
func (l *loop) runAndWait(f func()) bool {
	ran := make(chan struct{})
	l.runSoon(func() { f(); close(ran) })
	select {
	case <-ran:
		return true
	case <-l.ended:
		return false
	}
}

// logLater hands something to the log; when the log is far behind, it is lost.
func (l *loop) logLater(level slog.Level, text string, attrs ...slog.Attr) {
	select {
	case l.notes <- note{level, text, attrs}:
	default:
	}
}

// sendEvent passes a transition on; without a reader the oldest one is lost.
func (l *loop) sendEvent(e Event) {
	select {
	case l.events <- e:
		return
	default:
	}
	select {
	case <-l.events:
	default:
	}
	l.events <- e // there is room: no other goroutine sends
}

// run works until stop was posted and every virtual router has ended.
func (l *loop) run() {
	runtime.LockOSThread() // never undone: the thread ends with run, and its priority with it
	if l.opts.Realtime > 0 {
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(l.opts.Realtime),
			Flags: unix.SCHED_FLAG_RESET_ON_FORK}
		if err := unix.SchedSetAttr(0, attr, 0); err != nil {
			l.logLater(slog.LevelWarn, "advert thread runs without real-time priority", slog.Any("error", err))
		}
	}
	queue, err := newAdvertQueue(func(v *vrouter, err error) { l.reportSendError(v, err, time.Now()) })
	if err != nil {
		l.logLater(slog.LevelInfo, "adverts are timed by the daemon itself", slog.Any("reason", err))
	}
	l.queue = queue
	for !l.stopping || len(l.routers) > 0 {
		l.waitForWork()
		l.readSockets() // before timers: after a pause, a master that was heard meanwhile is not dead
		l.runTimers(time.Now())
		l.removeEnded()
	}
	if l.queue != nil {
		l.queue.close()
	}
	close(l.ended)
	l.workers.Wait()
}

// runTimers looks at the timers.
func (l *loop) runTimers(now time.Time) {
	for _, v := range l.routers {
		if due := v.m.Deadline(); !due.IsZero() && !now.Before(due) {
			v.sentByKernel = v.queued.dropPast(now, v.cfg.AdvertInterval)
			l.step(v, Tick{}, now)
			v.sentByKernel = false
		}
	}
	if l.queue != nil {
		l.queue.readCompletions()
	}
}

// waitForWork sleeps until a packet, a message or the next deadline, and runs the
// messages.
func (l *loop) waitForWork() {
	var next time.Time
	for _, v := range l.routers {
		if due := v.m.Deadline(); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	var timeout *unix.Timespec
	if !next.IsZero() {
		ts := unix.NsecToTimespec(max(0, int64(time.Until(next))))
		timeout = &ts
	}
	_, _ = unix.Ppoll(l.fds, timeout, nil) // an interruption is a wake-up like another
	var count [8]byte
	_, _ = unix.Read(l.wake, count[:])
	for {
		select {
		case f := <-l.inbox:
			f()
		default:
			return
		}
	}
}

// collectSockets collects the sockets in use.
func (l *loop) collectSockets() {
	l.socks, l.fds = nil, []unix.PollFd{{Fd: int32(l.wake), Events: unix.POLLIN}}
	for c := range l.usedConns() {
		l.socks = append(l.socks, c)
		l.fds = append(l.fds, unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN})
	}
}

func (l *loop) usedConns() map[*conn]bool {
	used := map[*conn]bool{}
	for _, v := range l.routers {
		if v.conn != nil {
			used[v.conn] = true
		}
	}
	return used
}

// readSockets reads what is there, within reason: a flood must not keep the
// timers from being looked at.
func (l *loop) readSockets() {
	for _, c := range l.socks {
		for range 256 {
			d, ok := c.receive(l.buf[:])
			if !ok {
				break
			}
			if len(d.payload) >= 2 {
				l.routeDatagram(c, d)
			}
		}
	}
}

// routeDatagram finds the virtual router that a datagram is for. Other identifiers
// belong to other clusters.
func (l *loop) routeDatagram(c *conn, d datagram) {
	for _, v := range l.routers {
		if v.conn == c && v.cfg.VRID == d.payload[1] {
			v.handleDatagram(l, d, time.Now())
			return
		}
	}
}

// applyPlan makes the wanted instances those of p: new ones start, changed ones
// are told, missing ones stop. It returns the sockets in use.
func (l *loop) applyPlan(p plan) map[*conn]bool {
	if l.stopping {
		return l.usedConns()
	}
	if l.services, l.tracked = p.services, p.tracked; p.links != nil {
		l.links = p.links
	}
	l.readReasons()
	now := time.Now()
	items, current, rest := l.matchRouters(p.items)
	l.routers = slices.Concat(current, rest)
	changed := make([]bool, len(items))
	for n, it := range items {
		changed[n] = !sameInstance(current[n].cfg, it.cfg)
		current[n].cfg = it.cfg
	}
	l.buildGroups()
	for n, it := range items {
		l.updateRouter(current[n], it, changed[n], p.seen, now)
	}
	for _, v := range rest {
		l.stopRouter(v, now)
	}
	l.collectSockets()
	l.publishRouters()
	return l.usedConns()
}

// matchRouters gives each item the virtual router that it is about: the one there
// is, or a new one. The rest are the virtual routers that no item is about.
//
// An instance's data path is known by its name: of two virtual routers of one name
// the one that ends would take it from the other. So a new one goes on in the place
// of the old one if the VIPs are there, and else waits until the old one has ended.
func (l *loop) matchRouters(all []item) (items []item, current, rest []*vrouter) {
	rest = slices.Clone(l.routers)
	take := func(isMeant func(*vrouter) bool) *vrouter {
		i := slices.IndexFunc(rest, isMeant)
		if i < 0 {
			return nil
		}
		v := rest[i]
		rest = slices.Delete(rest, i, i+1)
		return v
	}
	same := make([]*vrouter, len(all))
	for n, it := range all {
		same[n] = take(func(v *vrouter) bool { return v.key == it.cfg.key() && !v.leaving })
	}
	for n, it := range all {
		hasName := func(v *vrouter) bool { return v.cfg.Name == it.cfg.Name }
		v := same[n]
		switch {
		case v != nil:
		case !slices.ContainsFunc(rest, hasName):
			v = newVrouter(l, it)
		case it.holding:
			v = l.replaceRouter(take(hasName), it)
		default: // removeEnded has the controller look again
			continue
		}
		items, current = append(items, it), append(current, v)
	}
	return items, current, rest
}

// replaceRouter ends a virtual router and has a new one go on with its worker: what
// may block is done in order.
func (l *loop) replaceRouter(old *vrouter, it item) *vrouter {
	isServing := old.m.Active() && !old.m.stopping
	l.step(old, Replace{}, time.Now())
	v := newVrouterOn(old.worker, it)
	v.resumes = isServing
	v.wantedGen, v.doneGen, v.doneAt = old.wantedGen, old.doneGen, old.doneAt
	return v
}

// updateRouter gives one virtual router the inputs that follow from a new
// plan: none, if nothing has changed for it.
func (l *loop) updateRouter(v *vrouter, it item, changed bool, seen, now time.Time) {
	if v.conn != it.conn {
		l.cancelAdverts(v) // before the controller closes the socket
	}
	v.conn, v.index = it.conn, l.links[it.cfg.Interface].index
	v.connErr = it.err
	l.updateCondition(v, now)
	switch {
	case !v.started:
		v.started = true
		l.step(v, Start{Self: v.cond.Self, Holding: it.holding, Resume: it.holding && (v.resumes || l.canResume(v))}, now)
		if it.holding && v.m.Role() == Backup && l.hasResigned() {
			l.serveOn(v)
		}
	case changed:
		l.step(v, Configure{Instance: it.cfg}, now)
	case v.m.Active() && !it.holding && v.isIdle() && seen.After(v.doneAt):
		l.logLater(slog.LevelWarn, "VIP was removed by someone else", slog.String("instance", v.cfg.Name))
		l.doAction(v, Take{}, now)
	case v.m.Active() && v.isIdle() && seen.After(v.doneAt) && !v.cfg.Routing.IsEmpty():
		v.worker.askRouting() // the kernel flushes routes with their interface
	}
}

// updateCondition gives a virtual router the state of the host if that has
// changed for it.
func (l *loop) updateCondition(v *vrouter, now time.Time) {
	cond := l.links.conditionFor(v.cfg, l.services, l.tracked)
	if cond.Fault == "" && v.connErr != nil {
		cond.Fault, cond.IsLink = v.connErr.Error(), true
	}
	if v.started && v.cond.Fault != "" && v.cond.IsLink && cond.Fault == "" {
		l.startRecovery(v)
	}
	cond.Bear = l.bear
	switch {
	case l.waitFor != "":
		cond.Wait = l.waitFor
	case v.recovering:
		cond.Wait = "checks have not answered since the fault"
	}
	if cond != v.cond {
		v.cond = cond
		l.step(v, cond, now)
	}
}

// recoveryLimit is how long an instance stays backup after a fault, however
// long checks take.
const recoveryLimit = 10 * time.Second

// startRecovery keeps a virtual router backup until what is known of the real
// servers is younger than the fault, or the pause, that is over.
func (l *loop) startRecovery(v *vrouter) {
	if l.opts.Recovered == nil {
		return
	}
	v.recovering = true
	v.recoveries++
	n := v.recoveries
	ready := sync.OnceFunc(func() {
		l.runSoon(func() {
			if v.recovering && v.recoveries == n {
				v.recovering = false
				l.updateCondition(v, time.Now())
			}
		})
	})
	time.AfterFunc(recoveryLimit, ready)
	l.opts.Recovered(v.cfg.Name, ready)
	l.readReasons() // what the recovery holds for
}

// readReasons takes the holds of now: those that a plan was made with may be
// old.
func (l *loop) readReasons() {
	if now := l.reasons.Load(); now != nil {
		l.waitFor, l.bear = now.wait, now.bear
	}
}

// canResume reports whether a lease of an earlier run says that no peer can have
// missed an advert for as long as its dead interval, or as it was asked to wait for: the
// lease is as much longer then.
func (l *loop) canResume(v *vrouter) bool {
	if l.opts.Held == nil || l.hasResigned() {
		return false
	}
	since := v.cfg.leaseTime(v.m.Priority()) - l.opts.Held(v.cfg.Name)
	return since < 3*v.cfg.AdvertInterval
}

func (l *loop) hasResigned() bool { return l.opts.Resigned != nil && l.opts.Resigned() }

// serveOn has a data path that serves still do so until it is known whether a peer is
// the master.
func (l *loop) serveOn(v *vrouter) {
	if l.opts.Held == nil || l.opts.Lease == nil {
		return
	}
	if left := l.opts.Held(v.cfg.Name); left > 0 {
		l.opts.Lease(v.cfg.Name, max(left, v.cfg.listenTime()+busyTime))
	}
}

// stopRouter ends a virtual router in its own time.
func (l *loop) stopRouter(v *vrouter, now time.Time) {
	if !v.leaving {
		v.leaving = true
		v.group = Group{v.m}
		l.step(v, Stop{LeaveIfAlone: l.stopping && l.opts.Left != nil}, now)
	}
}

func (l *loop) stopAll() {
	l.stopping = true
	now := time.Now()
	for _, v := range l.routers {
		l.stopRouter(v, now)
	}
}

// abandonAll ends all virtual routers without a word that they end.
func (l *loop) abandonAll(next []Instance) {
	l.stopping = true
	now := time.Now()
	for _, v := range l.routers {
		l.cancelAdverts(v)
		if slices.ContainsFunc(next, v.cfg.IsSameRouter) {
			l.askForPatience(v, now)
		}
		v.worker.close()
	}
	l.routers = nil
	l.collectSockets()
	l.publishRouters()
}

// buildGroups puts the machines of each sync group together.
func (l *loop) buildGroups() {
	groups := map[string]Group{}
	for _, v := range l.routers {
		if v.cfg.SyncGroup != "" && !v.leaving {
			groups[v.cfg.SyncGroup] = append(groups[v.cfg.SyncGroup], v.m)
		}
	}
	for _, v := range l.routers {
		v.group = Group{v.m}
		if v.cfg.SyncGroup != "" && !v.leaving {
			v.group = groups[v.cfg.SyncGroup]
		}
	}
}

// removeEnded forgets those that have ended and publishes what has changed.
func (l *loop) removeEnded() {
	ended := func(v *vrouter) bool { return v.leaving && v.m.Role() == Init && v.isIdle() }
	if slices.ContainsFunc(l.routers, ended) {
		l.routers = slices.DeleteFunc(slices.Clone(l.routers), func(v *vrouter) bool {
			if ended(v) {
				v.worker.close()
			}
			return ended(v)
		})
		l.collectSockets()
		l.publishRouters()
		l.wakeController() // an instance of the same name may wait
	}
	for _, v := range l.routers {
		if v.dirty {
			l.queueAdverts(v)
		}
		v.publishStatus()
	}
}

// publishRouters publishes the list that Status reads.
func (l *loop) publishRouters() {
	for _, v := range l.routers {
		v.publishStatus()
	}
	list := slices.Clone(l.routers)
	l.shown.Store(&list)
}

func (l *loop) handleClaim(addr netip.Addr, by string) {
	now := time.Now()
	for _, v := range l.routers {
		if v.m.Active() && vips.Has(v.cfg.Addresses, addr) {
			v.handleClaim(addr, by, now)
			l.step(v, Rival{}, now)
		}
	}
}
