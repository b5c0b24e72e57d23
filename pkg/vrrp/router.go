package vrrp

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Announcer makes known on a segment which MAC address has the VIPs now, by
// gratuitous ARP and unsolicited neighbour advertisements, more than once.
type Announcer interface {
	// Announce starts the series and returns; a series under way starts
	// anew.
	Announce(iface string, addrs []netip.Addr)
	// Withdraw ends it. Nothing may be sent after it returns: another host
	// has the addresses.
	Withdraw(iface string, addrs []netip.Addr)
}

// Options are a router's ties to the rest of the host. All may be left out.
//
// Becoming master goes: Activate, VIPs, Lease, advert, Announce. Leaving
// goes: Withdraw, Yield, VIPs, Deactivate, Lease of 0. All but the renewals of the
// lease may block: each virtual router has a goroutine for them, on which
// they are called in order.
type Options struct {
	Log       *slog.Logger
	Announcer Announcer

	// Activate makes the data path ready for an instance. It is called
	// again when the VIPs of a master change, and it must be idempotent. On
	// error the instance stays backup and tries again when no other master
	// has turned up.
	Activate func(instance string) error
	// Yield is called before the VIPs of an instance go, which the data path
	// still serves: others can be told what is known here. Until it returns
	// two hosts may have the VIPs.
	Yield func(instance string)
	// Deactivate makes the data path inert for an instance.
	Deactivate func(instance string)

	// Lease lets the data path serve an instance for d from now, renewed
	// with each advert; 0 ends it. It is called on the advert thread and
	// must not block: one map update.
	Lease func(instance string, d time.Duration)
	// Held is what is left of a lease that an earlier run of the daemon
	// took, 0 if it is over or unknown. A master that was killed and is
	// back before any peer can have missed it goes on at once; otherwise
	// it listens for one advert interval first.
	Held func(instance string) time.Duration

	// Resigned reports whether the earlier run resigned before it left VIPs behind.
	// What Held gives is then how long the data path is to serve, and says nothing of
	// peers, one of which may be the master.
	Resigned func() bool

	// Left is called for a master that stopped while no other router spoke
	// for its VIPs: if it returns true, they and the data path stay as they
	// are, for the next run. Else they go as always. It may block.
	Left func(instance string) bool

	// Recovered is called when a fault of an interface is over, or when a master
	// that stood still has found another one in its place, from the
	// advert thread: it must not block. The instance stays backup until ready
	// has been called, ten seconds at most: what was found out about real
	// servers is as old as the fault.
	Recovered func(instance string, ready func())

	// Realtime is the SCHED_RR priority of the advert thread, 1 to 99; 0 is
	// the normal policy. Needs CAP_SYS_NICE; without it the thread runs as
	// it is.
	Realtime int
}

// Router runs virtual routers. Make it with [NewRouter], give it instances
// with [Router.Set], before or while [Router.Run] runs.
type Router struct {
	opts   Options
	log    *slog.Logger
	events chan Event

	mu       sync.Mutex
	want     []Instance
	services map[string]bool
	sessions readings      // of BFD
	holds    []*hold       // why no backup takes over yet
	loop     *loop         // while running
	changed  chan struct{} // something for the controller to look at

	shown   atomic.Pointer[[]*vrouter]  // what Status reads
	reasons atomic.Pointer[holdReasons] // what the loop reads

	abandoned atomic.Pointer[[]Instance] // the end is no end for anybody else
}

// NewRouter makes a router without instances.
func NewRouter(opts Options) *Router {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Router{
		opts: opts, log: log.With("component", "vrrp"),
		events: make(chan Event, 256), services: map[string]bool{}, sessions: readings{}, changed: make(chan struct{}, 1),
	}
}

// Events delivers transitions while Run runs; it is closed when Run
// returns. A reader that falls far behind loses the oldest ones.
func (r *Router) Events() <-chan Event { return r.events }

// Set says which instances there are. Instances that are the same as before
// are not touched at all. One virtual router is the same as long as its
// interface, identifier and family are: its other parameters change under
// way, without a handover. One that is no longer there resigns and gives up
// its VIPs when a successor has spoken.
func (r *Router) Set(instances []Instance) error {
	if err := validateAll(instances); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want = slices.Clone(instances)
	r.wakeController()
	return nil
}

// wakeController wakes the controller.
func (r *Router) wakeController() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func validateAll(instances []Instance) error {
	names, keys := map[string]bool{}, map[key]string{}
	type place struct {
		iface string
		addr  netip.Addr
	}
	vips := map[place]string{}
	for _, i := range instances {
		if err := i.Validate(); err != nil {
			return err
		}
		if names[i.Name] {
			return fmt.Errorf("virtual router %s: two of this name", i.Name)
		}
		if other, ok := keys[i.key()]; ok {
			return fmt.Errorf("virtual router %s: identifier %d on %s is %s's", i.Name, i.VRID, i.Interface, other)
		}
		names[i.Name], keys[i.key()] = true, i.Name
		for _, p := range i.Addresses {
			at := place{i.Interface, p.Addr()}
			if other, ok := vips[at]; ok {
				return fmt.Errorf("virtual router %s: address %s is also %s's", i.Name, p.Addr(), other)
			}
			vips[at] = i.Name
		}
	}
	return nil
}

// hold is a reason to stay backup.
type hold struct {
	why            string
	preemptionOnly bool // a silent master is followed all the same
}

// Hold has every instance that is not master stay backup, for the given
// reason, until release is called or the limit is over. One whose VIPs an
// earlier run has left in place goes on all the same.
func (r *Router) Hold(why string, limit time.Duration) (release func()) {
	return r.hold(&hold{why: why}, limit)
}

// HoldPreemption has every backup bear a master of lower priority, for the
// given reason, until release is called or the limit is over. A master that
// falls silent or resigns is followed as always.
func (r *Router) HoldPreemption(why string, limit time.Duration) (release func()) {
	return r.hold(&hold{why, true}, limit)
}

func (r *Router) hold(h *hold, limit time.Duration) (release func()) {
	r.mu.Lock()
	r.holds = append(r.holds, h)
	r.publishReasons()
	r.mu.Unlock()
	r.wakeController()
	end := sync.OnceFunc(func() {
		r.mu.Lock()
		r.holds = slices.DeleteFunc(r.holds, func(o *hold) bool { return o == h })
		r.publishReasons()
		r.mu.Unlock()
		r.wakeController()
	})
	timer := time.AfterFunc(limit, end)
	return func() {
		timer.Stop()
		end()
	}
}

// holdReasons are why no backup takes over yet, and why none preempts; "" if any
// may.
type holdReasons struct{ wait, bear string }

// publishReasons shows the reasons to the loop, which must see a hold as soon as
// it is there. The caller holds mu.
func (r *Router) publishReasons() {
	var now holdReasons
	for _, h := range r.holds {
		if h.preemptionOnly {
			now.bear = h.why
		} else {
			now.wait = h.why
		}
	}
	r.reasons.Store(&now)
}

// SetTracked reports whether a service has a usable real server. A service
// that was never reported counts as well.
func (r *Router) SetTracked(service string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, known := r.services[service]; known && was == ok {
		return
	}
	r.services[service] = ok
	r.wakeController()
}

// SetBFD reports whether a BFD session is up, and else why it is not. A session
// that was never reported is down.
func (r *Router) SetBFD(session string, isUp bool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, now := TrackBFD{Name: session}.key(), reading{isKnown: true, isGood: isUp, why: why}
	if r.sessions[key] == now {
		return
	}
	r.sessions[key] = now
	r.wakeController()
}

// Claimed reports that another host, by its MAC address for example, was
// seen to use addr in ARP or neighbour discovery. A master announces its
// VIPs again and warns.
func (r *Router) Claimed(addr netip.Addr, by string) {
	r.mu.Lock()
	l := r.loop
	r.mu.Unlock()
	if l != nil {
		l.runSoon(func() { l.handleClaim(addr, by) })
	}
}

// Status reports on all instances, in the order of Set.
func (r *Router) Status() []Status {
	shown := r.shown.Load()
	if shown == nil {
		return nil
	}
	var list []Status
	for _, v := range *shown {
		s := *v.public.Load()
		s.Dropped = maps.Clone(s.Dropped)
		s.Peers = slices.Clone(s.Peers)
		if !time.Now().Before(s.warnUntil) {
			s.Warning = ""
		}
		if s.routingTrouble != "" {
			s.Warning = strings.TrimPrefix(s.Warning+"; "+s.routingTrouble, "; ")
		}
		list = append(list, s.Status)
	}
	return list
}

// Abandon makes the end of Run one that nobody notices: no resignation, no
// transition, VIPs and leases stay. The next run of the daemon, which must be
// near, goes on as what this one was; backups are asked for patience with the
// virtual routers that it will run as far as is known. Call it before Run's
// context ends.
func (r *Router) Abandon(next []Instance) { r.abandoned.Store(&next) }

// Run runs the instances until ctx is cancelled. Then masters resign, keep
// serving until a successor has spoken, at most for as long as a slow one needs,
// and give up their VIPs; only then Run returns nil. An error means that it
// could not start.
func (r *Router) Run(ctx context.Context) error {
	mon, err := newMonitor()
	if err != nil {
		return err
	}
	notes := make(chan note, 1024)
	l, err := newLoop(r, notes)
	if err != nil {
		mon.close()
		return err
	}
	c := &controller{router: r, loop: l, conns: map[connKey]*conn{}, trackers: newTrackers(r.log, r.wakeController)}
	r.setLoop(l)

	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { mon.run(r.changed) })
	wg.Go(func() { c.run(ended) })
	wg.Go(func() { defer close(ended); l.run() })
	logged := make(chan struct{})
	go func() { defer close(logged); r.writeLog(notes) }()

	<-ctx.Done()
	if next := r.abandoned.Load(); next != nil {
		l.runSoon(func() { l.abandonAll(*next) })
	} else {
		l.runSoon(l.stopAll)
	}
	<-ended
	r.setLoop(nil)
	mon.close()
	wg.Wait()
	l.closeWake()
	close(notes)
	<-logged
	close(r.events)
	return nil
}

func (r *Router) setLoop(l *loop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loop = l
}

// note is what the advert thread has to say; it must not wait for a log to
// be written.
type note struct {
	level slog.Level
	text  string
	attrs []slog.Attr
}

// writeLog writes notes to the log.
func (r *Router) writeLog(notes <-chan note) {
	for n := range notes {
		r.log.LogAttrs(context.Background(), n.level, n.text, n.attrs...) //nolint:sloglint // every note is made with a constant text
	}
}
