package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// heldVIPs puts the VIPs that no VRRP instance names on the interface and
// has them announced.
type heldVIPs struct {
	vips     *neigh.VIPs
	announce *neigh.Announcer
	log      *slog.Logger

	mu        sync.Mutex
	iface     string
	announced []netip.Addr
	mended    time.Time
}

// Hold implements [director.VIPs].
func (h *heldVIPs) Hold(iface string, vips []netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hold(iface, vips)
}

func (h *heldVIPs) hold(iface string, vips []netip.Addr) error {
	put, err := h.vips.Hold(iface, vips)
	fresh := without(vips, h.announced)
	if back := without(put, fresh); len(back) > 0 {
		h.log.Warn("VIP was removed by someone else, put back", "component", "vips", "interface", iface, "vips", back)
		h.announce.Announce(iface, back)
	}
	if err != nil {
		return err
	}
	h.announce.Withdraw(iface, without(h.announced, vips))
	h.announce.Announce(iface, fresh)
	h.iface, h.announced = iface, slices.Clone(vips)
	return nil
}

// Times of the repair of VIPs.
const (
	mendSettle = 20 * time.Millisecond // addresses go in groups
	mendPause  = time.Second           // between repairs, with somebody who does it again and again
)

// Run puts VIPs back as soon as somebody takes them away, until ctx ends.
func (h *heldVIPs) Run(ctx context.Context) error {
	soon := time.AfterFunc(time.Hour, h.mend)
	defer soon.Stop()
	if err := neigh.WhenGone(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		soon.Reset(max(mendSettle, time.Until(h.mended.Add(mendPause))))
	}); err != nil {
		h.log.Warn("VIPs are looked after every ten seconds only", "component", "vips", "err", err)
	}
	return nil
}

func (h *heldVIPs) mend() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.announced) == 0 {
		return
	}
	h.mended = time.Now()
	if err := h.hold(h.iface, h.announced); err != nil {
		h.log.Warn("VIPs not repaired", "component", "vips", "err", err)
	}
}

func (h *heldVIPs) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.announce.Withdraw(h.iface, h.announced)
	h.announced = nil
	return h.vips.Release()
}

// without is what is in a and not in b.
func without(a, b []netip.Addr) []netip.Addr {
	in := make(map[netip.Addr]bool, len(b))
	for _, x := range b {
		in[x] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(x netip.Addr) bool { return in[x] })
}

// router ties VRRP to the data path and to announcements.
type router struct {
	*vrrp.Router
	announce *neigh.Announcer
	leaser   lb.Leaser          // nil: the data path knows no leases
	director *director.Director // set before Run
	log      *slog.Logger

	mu     sync.Mutex
	places map[string]vrrp.Instance // also of instances that are on their way out
}

// advertPriority is that of the thread that sends adverts: any real-time
// priority keeps ordinary load from delaying them.
const advertPriority = 1

func newRouter(a *neigh.Announcer, b lb.Backend, log *slog.Logger) *router {
	r := &router{announce: a, log: log, places: map[string]vrrp.Instance{}}
	o := vrrp.Options{
		Log: log, Announcer: a, Activate: r.activate, Deactivate: r.deactivate, Realtime: advertPriority,
	}
	if leaser, ok := b.(lb.Leaser); ok {
		r.leaser = leaser
		o.Lease = r.lease
		o.Held = func(instance string) time.Duration {
			if id, ok := r.director.Lease(instance); ok {
				return leaser.Held(id)
			}
			return 0
		}
	}
	r.Router = vrrp.NewRouter(o)
	return r
}

// Set implements [director.VRRP].
func (r *router) Set(instances []vrrp.Instance) error {
	if err := r.Router.Set(instances); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range instances {
		r.places[i.Name] = i
	}
	return nil
}

func (r *router) activate(instance string) error { return r.director.Activate(instance) }

func (r *router) deactivate(instance string) {
	r.mu.Lock()
	at := r.places[instance]
	r.mu.Unlock()
	vips := make([]netip.Addr, 0, len(at.Addresses))
	for _, p := range at.Addresses {
		vips = append(vips, p.Addr())
	}
	r.announce.Withdraw(at.Interface, vips)
	if err := r.director.Deactivate(instance); err != nil {
		r.log.Warn("data path still active for an instance that is not master", "component", "vrrp", "instance", instance, "err", err)
	}
}

// lease runs on the thread that sends adverts: it must not wait.
func (r *router) lease(instance string, d time.Duration) {
	if id, ok := r.director.Lease(instance); ok {
		_ = r.leaser.Renew(id, d) // an error shows as the lease running out
	}
}
