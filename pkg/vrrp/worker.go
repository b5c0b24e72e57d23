package vrrp

import (
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
	leave  bool // nothing changes but that another run is to find it
	linger bool // a moment's grace before the VIPs go
	cfg    Instance
	index  int            // of the interface
	keep   []netip.Prefix // VIPs that another virtual router needs
}

// worker carries out, in order and away from the advert thread, what may
// block: callbacks, VIPs, announcements. Of several jobs the last one
// counts.
type worker struct {
	opts *Options
	done func(gen uint64, added int, err error) // called after each job

	mu       sync.Mutex
	next     *job
	announce bool
	closed   bool
	wake     chan struct{}

	// Owned by run.
	serving     *job
	owned       []netip.Prefix
	native      []netip.Prefix // an address owner's, there before us: never removed
	nativeKnown bool
}

func newWorker(opts *Options, done func(gen uint64, added int, err error)) *worker {
	return &worker{opts: opts, done: done, wake: make(chan struct{}, 1)}
}

// setJob replaces the job that waits.
func (w *worker) setJob(j job) { w.wakeWith(func() { w.next = &j }) }

// askAnnounce asks for an announcement, if the VIPs are here when its turn comes.
func (w *worker) askAnnounce() { w.wakeWith(func() { w.announce = true }) }

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
		j, announce, closed := w.next, w.announce, w.closed
		w.next, w.announce = nil, false
		w.mu.Unlock()
		if j != nil {
			w.doJob(*j)
		}
		if announce && w.serving != nil && w.opts.Announcer != nil {
			w.opts.Announcer.Announce(w.serving.cfg.Interface, addrsOf(w.serving.cfg.Addresses))
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
	if w.serving != nil {
		w.withdrawVIPs(w.serving.cfg.Interface, w.owned) // at once: it would draw traffic back
		if j.linger && w.waitForNewer(linger) {
			return
		}
	}
	w.done(j.gen, 0, w.dropVIPs(j))
}

// findNative finds out once which addresses an address owner has by itself.
func (w *worker) findNative(j job) {
	if w.nativeKnown || j.cfg.Priority != 255 || j.index == 0 {
		return
	}
	have, _, err := vips.List(j.index)
	if err != nil {
		return
	}
	w.nativeKnown = true
	w.native = slices.DeleteFunc(slices.Clone(j.cfg.Addresses), func(p netip.Prefix) bool { return !vips.Has(have, p.Addr()) })
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
	if w.serving != nil {
		stale := slices.DeleteFunc(slices.Clone(w.owned), func(p netip.Prefix) bool { return vips.Has(j.cfg.Addresses, p.Addr()) })
		w.withdrawVIPs(w.serving.cfg.Interface, stale)
		if err := w.removeVIPs(w.serving.index, stale, j.keep); err != nil {
			return 0, err
		}
	}
	added, err = vips.Add(j.index, j.cfg.Addresses)
	w.serving, w.owned = &j, j.cfg.Addresses
	return added, err
}

func (w *worker) withdrawVIPs(iface string, ps []netip.Prefix) {
	if w.opts.Announcer != nil && len(ps) > 0 {
		w.opts.Announcer.Withdraw(iface, addrsOf(ps))
	}
}

// dropVIPs removes the VIPs, of a former run as well, and then silences the
// data path: the other way round the kernel would answer for it.
func (w *worker) dropVIPs(j job) error {
	err := w.removeVIPs(j.index, slices.Concat(j.cfg.Addresses, w.owned), j.keep)
	w.serving, w.owned = nil, nil
	if w.opts.Deactivate != nil {
		w.opts.Deactivate(j.cfg.Name)
	}
	if w.opts.Lease != nil {
		w.opts.Lease(j.cfg.Name, 0)
	}
	return err
}

func (w *worker) removeVIPs(index int, ps, spare []netip.Prefix) error {
	ps = slices.DeleteFunc(slices.Clone(ps), func(p netip.Prefix) bool {
		return vips.Has(spare, p.Addr()) || vips.Has(w.native, p.Addr())
	})
	if index == 0 || len(ps) == 0 {
		return nil
	}
	return vips.Remove(index, ps)
}
