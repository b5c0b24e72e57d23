package vrrp

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	vips "github.com/lvx-lb/lvx/pkg/vip"
)

// linger is how long the VIPs outlive a handover: the winner has
// advertised, its announcement may be a few milliseconds behind (keepalived:
// 0.1 to 5), and until then clients still send here.
const linger = 15 * time.Millisecond

// job says how one virtual router's data path and VIPs are to be.
type job struct {
	gen    uint64 // the newest job counts
	serve  bool
	linger bool // a moment's grace before the VIPs go
	leave  bool // nothing changes but that another run is to find it
	cfg    Instance
	places []place
	keep   map[string][]netip.Prefix // VIPs that another virtual router needs, by interface

	isNamesake bool // another virtual router has the name by now, and the data path with it

	keepRouting vips.Routing // routes and rules that another virtual router needs
}

// worker carries out, in order and away from the advert thread, what may
// block: callbacks, VIPs, announcements. Of several jobs the last one
// counts.
type worker struct {
	opts   *Options
	done   func(gen uint64, added int, err error) // called after each job
	routed func(error)                            // called after each change of routes and rules
	owner  *vrouter                               // the advert thread's

	mu       sync.Mutex
	next     *job
	announce bool
	repair   bool
	closed   bool
	wake     chan struct{}

	// Owned by run.
	serving     bool
	owned       []place
	routing     vips.Routing
	native      map[string][]netip.Prefix // an address owner's by interface, there before us: never removed
	nativeKnown bool
}

func newWorker(opts *Options, done func(gen uint64, added int, err error)) *worker {
	return &worker{opts: opts, done: done, routed: func(error) {}, wake: make(chan struct{}, 1)}
}

// setJob replaces the job that waits.
func (w *worker) setJob(j job) { w.wakeWith(func() { w.next = &j }) }

// askAnnounce asks for an announcement, if the VIPs are here when its turn comes.
func (w *worker) askAnnounce() { w.wakeWith(func() { w.announce = true }) }

// askRouting asks for the routes and rules to be put back, if the VIPs are here
// when its turn comes.
func (w *worker) askRouting() { w.wakeWith(func() { w.repair = true }) }

func (w *worker) close() { w.wakeWith(func() { w.closed = true }) }

func (w *worker) wakeWith(set func()) {
	w.mu.Lock()
	set()
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run works until close.
func (w *worker) run() {
	for range w.wake {
		w.mu.Lock()
		j, announce, repair, closed := w.next, w.announce, w.repair, w.closed
		w.next, w.announce, w.repair = nil, false, false
		w.mu.Unlock()
		if j != nil {
			w.doJob(*j)
		}
		if repair && w.serving {
			w.routed(w.routing.Add())
		}
		if announce && w.serving && w.opts.Announcer != nil {
			for _, p := range w.owned {
				w.opts.Announcer.Announce(p.Interface, addrsOf(p.VIPs))
			}
		}
		if closed {
			return
		}
	}
}

func addrsOf(ps []netip.Prefix) []netip.Addr {
	addrs := make([]netip.Addr, len(ps))
	for i, p := range ps {
		addrs[i] = p.Addr()
	}
	return addrs
}

func (w *worker) doJob(j job) {
	w.findNative(j)
	if j.serve {
		added, err := w.takeVIPs(j)
		w.done(j.gen, added, err)
		return
	}
	if j.leave && w.opts.Left(j.cfg.Name) {
		w.done(j.gen, 0, nil)
		return
	}
	if w.serving {
		w.withdrawVIPs(w.owned) // at once: it would draw traffic back
		if w.opts.Yield != nil {
			w.opts.Yield(j.cfg.Name)
		}
		if j.linger && w.waitForNewer(linger) {
			return
		}
	}
	w.done(j.gen, 0, w.dropVIPs(j))
}

// findNative finds out once which addresses an address owner has by itself.
func (w *worker) findNative(j job) {
	if w.nativeKnown || j.cfg.Priority != OwnerPriority {
		return
	}
	native := map[string][]netip.Prefix{}
	for _, p := range j.places {
		have, _, err := vips.List(p.index)
		if err != nil || p.index == 0 {
			return
		}
		native[p.Interface] = slices.DeleteFunc(slices.Clone(p.VIPs), func(a netip.Prefix) bool { return !vips.Has(have, a.Addr()) })
	}
	w.nativeKnown, w.native = true, native
}

// waitForNewer waits and reports whether there is a newer job by then.
func (w *worker) waitForNewer(d time.Duration) bool {
	time.Sleep(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next != nil
}

// takeVIPs makes the data path ready first: a VIP must not attract traffic
// before there is something behind it.
func (w *worker) takeVIPs(j job) (added int, err error) {
	if w.opts.Activate != nil {
		if err := w.opts.Activate(j.cfg.Name); err != nil {
			return 0, err
		}
	}
	stale := without(w.owned, j.places)
	w.withdrawVIPs(stale)
	if err := w.removeVIPs(stale, j.keep); err != nil {
		return 0, err
	}
	var errs []error
	for _, p := range j.places {
		n, err := vips.Add(p.index, p.VIPs)
		added += n
		errs = append(errs, err)
	}
	w.serving, w.owned = true, j.places
	if err := errors.Join(errs...); err != nil {
		return added, err
	}
	w.moveRouting(j)
	return added, nil
}

// moveRouting makes routes and rules those of the configuration. One that the
// kernel does not take is no reason not to serve.
func (w *worker) moveRouting(j job) {
	err := w.routing.Without(j.cfg.Routing).Without(j.keepRouting).Remove()
	w.routing = j.cfg.Routing
	w.routed(errors.Join(err, w.routing.Add()))
}

// dropRouting takes routes and rules away, those of a former run as well.
func (w *worker) dropRouting(j job) {
	err := errors.Join(w.routing.Without(j.cfg.Routing).Without(j.keepRouting).Remove(), j.cfg.Routing.Without(j.keepRouting).Remove())
	w.routing = vips.Routing{}
	w.routed(err)
}

// without is what is in a and not at the same place in b.
func without(a, b []place) []place {
	var left []place
	for _, p := range a {
		p.VIPs = slices.DeleteFunc(slices.Clone(p.VIPs), func(vip netip.Prefix) bool {
			return slices.ContainsFunc(b, func(o place) bool {
				return o.Interface == p.Interface && vips.Has(o.VIPs, vip.Addr())
			})
		})
		if len(p.VIPs) > 0 {
			left = append(left, p)
		}
	}
	return left
}

func (w *worker) withdrawVIPs(places []place) {
	if w.opts.Announcer == nil {
		return
	}
	for _, p := range places {
		w.opts.Announcer.Withdraw(p.Interface, addrsOf(p.VIPs))
	}
}

// dropVIPs removes the VIPs, of a former run as well, and then silences the
// data path: the other way round the kernel would answer for it.
func (w *worker) dropVIPs(j job) error {
	w.dropRouting(j)
	err := w.removeVIPs(slices.Concat(j.places, without(w.owned, j.places)), j.keep)
	w.serving, w.owned = false, nil
	if j.isNamesake {
		return err
	}
	if w.opts.Deactivate != nil {
		w.opts.Deactivate(j.cfg.Name)
	}
	if w.opts.Lease != nil {
		w.opts.Lease(j.cfg.Name, 0)
	}
	return err
}

func (w *worker) removeVIPs(places []place, keep map[string][]netip.Prefix) error {
	var errs []error
	for _, p := range places {
		ps := slices.DeleteFunc(slices.Clone(p.VIPs), func(a netip.Prefix) bool {
			return vips.Has(keep[p.Interface], a.Addr()) || vips.Has(w.native[p.Interface], a.Addr())
		})
		if p.index != 0 && len(ps) > 0 {
			errs = append(errs, vips.Remove(p.index, ps))
		}
	}
	return errors.Join(errs...)
}
