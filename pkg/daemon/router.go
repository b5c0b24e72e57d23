package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// router ties VRRP to the data path and to announcements.
type router struct {
	*vrrp.Router
	announce *neigh.Announcer
	leaser   lb.Leaser          // nil: the data path knows no leases
	canLease bool               // the data path falls silent when a lease ends
	director *director.Director // set before Run
	monitor  *health.Monitor
	sync     *connSync    // nil: connections are not shared
	left     *routersLeft // nil: nothing is noted
	log      *slog.Logger

	interfaces []string // on which VIPs may go, besides a router's own

	mu      sync.Mutex
	wanted  []vrrp.Instance
	places  map[string]vrrp.Instance // also of instances that are on their way out
	behind  map[string]bool          // instances whose VIPs a stop has left on their interfaces
	settled map[string]bool          // instances that have become master or backup behind a stop
}

// verdictLimit is how long verdicts may take; VRRP itself waits no longer.
const verdictLimit = 10 * time.Second

// advertPriority is that of the thread that sends adverts: any real-time
// priority keeps ordinary load from delaying them.
const advertPriority = 1

func newRouter(interfaces []string, a *neigh.Announcer, b lb.Backend, m *health.Monitor, log *slog.Logger) *router {
	r := &router{interfaces: interfaces, announce: a, monitor: m, log: log, places: map[string]vrrp.Instance{}, behind: map[string]bool{}, settled: map[string]bool{}}
	o := vrrp.Options{
		Log: log, Announcer: a, Activate: r.activate, Deactivate: r.deactivate, Realtime: advertPriority,
	}
	if leaser, ok := b.(lb.Leaser); ok {
		r.leaser = leaser
		o.Lease = r.lease
		o.Held = func(instance string) time.Duration {
			if id, ok := r.director.Lease(instance); ok {
				return leaser.LeaseLeft(id)
			}
			return 0
		}
		o.Resigned = r.hasResigned
	}
	o.Yield = r.yield
	o.Left = r.leftBehind
	o.Recovered = r.recovered
	r.Router = vrrp.NewRouter(o)
	return r
}

// share has roles of this host count for connection sync, and the other way round:
// nil is no sync. Virtual routers may come later, by a reload.
func (r *router) share(s *connSync) {
	if s == nil {
		return
	}
	r.sync = s
	s.hold.take = r.HoldPreemption
}

// Set implements [director.VRRP].
func (r *router) Set(instances []vrrp.Instance) error {
	instances, err := readPlaces(instances, r.interfaces)
	if err != nil {
		return err
	}
	if err := r.Router.Set(instances); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	oldNames := vrrp.Renamed(r.wanted, instances)
	for _, name := range oldNames { // nobody deactivates them
		delete(r.places, name)
		delete(r.settled, name)
	}
	for _, i := range instances {
		r.places[i.Name] = i
	}
	r.wanted = instances
	r.noteLeft(instances, r.hasResigned())
	if r.sync != nil {
		r.sync.renameRoles(oldNames)
		r.sync.hasVRRP.Store(len(instances) > 0)
		r.sync.wake()
	}
	return nil
}

func (r *router) activate(instance string) error {
	if r.sync != nil {
		r.sync.takeOver(instance)
	}
	err := r.director.Activate(instance)
	if r.sync != nil {
		r.sync.table.Missed() // takes in what waited for the reals of the latest plan
	}
	if err == nil {
		r.settle(instance)
	}
	return err
}

// bearUntilChecked has a master that lives borne until every real server has
// been asked since the daemon began.
func (r *router) bearUntilChecked(began time.Time) {
	release := r.HoldPreemption("checks have not answered yet", verdictLimit)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), verdictLimit)
		defer cancel()
		r.monitor.AwaitVerdicts(ctx, began)
		release()
	}()
}

// yield has the other directors told of the latest connections before the VIPs
// of an instance go to another one.
func (r *router) yield(string) {
	if r.sync != nil {
		r.sync.flush(yieldTime)
	}
}

func (r *router) deactivate(instance string) {
	r.mu.Lock()
	at := r.places[instance]
	r.mu.Unlock()
	for _, place := range at.Places() {
		vips := make([]netip.Addr, 0, len(place.VIPs))
		for _, p := range place.VIPs {
			vips = append(vips, p.Addr())
		}
		r.announce.Withdraw(place.Interface, vips)
	}
	if err := r.director.Deactivate(instance); err != nil {
		r.log.Warn("data path still active for an instance that is not master", "component", "vrrp", "instance", instance, "err", err)
	}
	if r.sync != nil {
		r.sync.giveUp(instance)
	}
	r.settle(instance)
}

// recovered keeps an instance backup until every real server has been asked
// since the fault that is now over.
func (r *router) recovered(_ string, ready func()) {
	since := time.Now()
	release := func() {}
	if r.sync != nil {
		release = r.HoldPreemption(syncHoldReason, syncLimit) // until there is sync's own
	}
	go func() {
		if r.sync != nil {
			r.sync.doubt() // it may wait for the data path, which adverts must not
			release()
		}
		ctx, cancel := context.WithTimeout(context.Background(), verdictLimit)
		defer cancel()
		r.monitor.AwaitVerdicts(ctx, since)
		ready()
	}()
}

// lease runs on the thread that sends adverts: it must not wait.
func (r *router) lease(instance string, d time.Duration) {
	if id, ok := r.director.Lease(instance); ok {
		_ = r.leaser.Renew(id, d) // an error shows as the lease running out
	}
}

// leftBehind lets the data path serve the VIPs of an instance that nobody took
// over, for a successor of this daemon. It reports whether that is possible.
func (r *router) leftBehind(instance string) bool {
	grace := r.director.Config().StopGrace
	if !r.canLease || grace == 0 {
		return false
	}
	id, ok := r.director.Lease(instance)
	if !ok {
		return false
	}
	if err := r.leaser.Renew(id, grace); err != nil {
		r.log.Warn("VIPs not left for a successor", "component", "vrrp", "instance", instance, "err", err)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behind[instance] = true
	return true
}

// noteBehind notes the VIPs that a stop has left on their interfaces. Those of other
// instances are off: should such an address be there later, somebody else has put it there.
func (r *router) noteBehind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noteLeft(slices.DeleteFunc(slices.Clone(r.wanted), func(i vrrp.Instance) bool { return !r.behind[i.Name] }), true)
}

// hasResigned reports whether the earlier run resigned, and an instance is not settled yet.
func (r *router) hasResigned() bool { return r.left != nil && r.left.resigned.Load() }

// settle notes that an instance is master or backup by now. Behind a stop every one has to
// be: a run that ends before, in whichever way, leaves it to the next one to listen.
func (r *router) settle(instance string) {
	if !r.hasResigned() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled[instance] = true
	if !slices.ContainsFunc(r.wanted, func(i vrrp.Instance) bool { return !r.settled[i.Name] }) {
		r.left.resigned.Store(false)
		r.noteLeft(r.wanted, false)
	}
}

func (r *router) noteLeft(instances []vrrp.Instance, resigned bool) {
	if r.left == nil {
		return
	}
	if err := r.left.note(instances, resigned); err != nil {
		r.log.Warn("VIPs of an earlier run are still where they were", "component", "vrrp", "err", err)
	}
}
