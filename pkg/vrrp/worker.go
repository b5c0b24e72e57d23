package vrrp

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// linger is how long the VIPs outlive a handover: the winner has
// advertised, its announcement may be a few milliseconds behind (keepalived:
// 0.1 to 5), and until then clients still send here.
const linger = 15 * time.Millisecond

// job is a wish for one virtual router's data path and VIPs.
type job struct {
	gen    uint64 // the newest wish counts
	serve  bool
	linger bool // a moment's grace before the VIPs go
	cfg    Instance
	index  int            // of the interface
	spare  []netip.Prefix // VIPs that another virtual router needs
}

// worker carries out, in order and away from the advert thread, what may
// block: callbacks, VIPs, announcements. Of several wishes the last one
// counts.
type worker struct {
	opts *Options
	done func(gen uint64, added int, err error) // called after each job

	mu       sync.Mutex
	next     *job
	announce bool
	closed   bool
	kick     chan struct{}

	// Owned by run.
	serving *job
	owned   []netip.Prefix
	native  []netip.Prefix // an address owner's, there before us: never removed
	looked  bool
}

func newWorker(opts *Options, done func(gen uint64, added int, err error)) *worker {
	return &worker{opts: opts, done: done, kick: make(chan struct{}, 1)}
}

// want replaces the wish.
func (w *worker) want(j job) { w.poke(func() { w.next = &j }) }

// tell asks for an announcement, if the VIPs are here when its turn comes.
func (w *worker) tell() { w.poke(func() { w.announce = true }) }

func (w *worker) close() { w.poke(func() { w.closed = true }) }

func (w *worker) poke(set func()) {
	w.mu.Lock()
	set()
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run works until close.
func (w *worker) run() {
	for range w.kick {
		w.mu.Lock()
		j, announce, closed := w.next, w.announce, w.closed
		w.next, w.announce = nil, false
		w.mu.Unlock()
		if j != nil {
			w.do(*j)
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

func (w *worker) do(j job) {
	w.look(j)
	if j.serve {
		added, err := w.take(j)
		w.done(j.gen, added, err)
		return
	}
	if w.serving != nil {
		w.withdraw(w.serving.cfg.Interface, w.owned) // at once: it would draw traffic back
		if j.linger && w.overtaken(linger) {
			return
		}
	}
	w.done(j.gen, 0, w.drop(j))
}

// look finds out once which addresses an address owner has by itself.
func (w *worker) look(j job) {
	if w.looked || j.cfg.Priority != 255 || j.index == 0 {
		return
	}
	have, _, err := listAddrs(j.index)
	if err != nil {
		return
	}
	w.looked = true
	w.native = slices.DeleteFunc(slices.Clone(j.cfg.Addresses), func(p netip.Prefix) bool { return !holds(have, p.Addr()) })
}

// overtaken waits and reports whether there is a newer wish by then.
func (w *worker) overtaken(d time.Duration) bool {
	time.Sleep(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next != nil
}

// take makes the data path ready first: a VIP must not attract traffic
// before there is something behind it.
func (w *worker) take(j job) (added int, err error) {
	if w.opts.Activate != nil {
		if err := w.opts.Activate(j.cfg.Name); err != nil {
			return 0, err
		}
	}
	if w.serving != nil {
		stale := slices.DeleteFunc(slices.Clone(w.owned), func(p netip.Prefix) bool { return holds(j.cfg.Addresses, p.Addr()) })
		w.withdraw(w.serving.cfg.Interface, stale)
		if err := w.remove(w.serving.index, stale, j.spare); err != nil {
			return 0, err
		}
	}
	added, err = addAddrs(j.index, j.cfg.Addresses)
	w.serving, w.owned = &j, j.cfg.Addresses
	return added, err
}

func (w *worker) withdraw(iface string, ps []netip.Prefix) {
	if w.opts.Announcer != nil && len(ps) > 0 {
		w.opts.Announcer.Withdraw(iface, addrsOf(ps))
	}
}

// drop removes the VIPs, of a former run as well, and then silences the
// data path: the other way round the kernel would answer for it.
func (w *worker) drop(j job) error {
	err := w.remove(j.index, slices.Concat(j.cfg.Addresses, w.owned), j.spare)
	w.serving, w.owned = nil, nil
	if w.opts.Deactivate != nil {
		w.opts.Deactivate(j.cfg.Name)
	}
	if w.opts.Lease != nil {
		w.opts.Lease(j.cfg.Name, 0)
	}
	return err
}

func (w *worker) remove(index int, ps, spare []netip.Prefix) error {
	ps = slices.DeleteFunc(slices.Clone(ps), func(p netip.Prefix) bool {
		return holds(spare, p.Addr()) || holds(w.native, p.Addr())
	})
	if index == 0 || len(ps) == 0 {
		return nil
	}
	return delAddrs(index, ps)
}
