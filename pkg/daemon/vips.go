package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vip"
)

// heldVIPs keeps the VIPs that no VRRP instance names on their interfaces and
// has them announced there.
type heldVIPs struct {
	holder   *vip.Holder
	claims   *claims
	announce *neigh.Announcer
	log      *slog.Logger
	routers  *routersLeft // nil: no virtual router has left anything

	mu         sync.Mutex
	interfaces []string
	wanted     []director.HeldVIP
	announced  []vip.Place
	repaired   time.Time
}

func newHeldVIPs(file string, a *neigh.Announcer, c *claims, log *slog.Logger) *heldVIPs {
	log = log.With("component", "vips")
	notes := func(err error) {
		if err == nil {
			log.Info("notes about VIPs are kept again", "file", file)
			return
		}
		log.Warn("notes about VIPs are not kept: a successor of a killed lvx would leave its VIPs on their interfaces", "err", err)
	}
	h := &heldVIPs{holder: vip.NewHolder(file, notes), claims: c, announce: a, log: log}
	c.changed = h.repair
	return h
}

// Hold implements [director.VIPs].
func (h *heldVIPs) Hold(interfaces []string, vips []director.HeldVIP) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.interfaces, h.wanted = slices.Clone(interfaces), slices.Clone(vips)
	return h.hold()
}

// Keep implements [director.VIPs].
func (h *heldVIPs) Keep(vips map[netip.Addr]bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted = slices.DeleteFunc(h.wanted, func(v director.HeldVIP) bool { return !vips[v.Addr] })
	isKept := func(p vip.Place) bool { return vips[p.Address] }
	onEach(slices.DeleteFunc(slices.Clone(h.announced), isKept), h.announce.Withdraw)
	h.announced = slices.DeleteFunc(h.announced, func(p vip.Place) bool { return !isKept(p) })
	err := h.holder.Keep(isKept)
	if h.routers != nil {
		err = errors.Join(err, h.routers.takeOff(vips))
	}
	return err
}

// hold puts every wanted VIP on the interface that it belongs to by now, but
// for those that another host has.
func (h *heldVIPs) hold() error {
	networks, err := vip.ReadNetworks(h.interfaces)
	if err != nil {
		return err
	}
	var want, quiet []vip.Place
	forced := map[netip.Addr]bool{}
	for _, v := range h.wanted {
		if v.Quiet {
			quiet = append(quiet, vip.Place{Interface: "lo", Address: v.Addr})
			continue
		}
		want = append(want, vip.Place{Interface: networks.Choose(h.interfaces, v.Addr), Address: v.Addr})
		forced[v.Addr] = v.Force
	}
	may := h.claims.filter(want, vip.Missing(want), func(a netip.Addr) bool { return forced[a] })
	r, err := h.holder.Hold(slices.Concat(may, quiet))
	r.Held, r.Put = without(r.Held, quiet), without(r.Put, quiet)
	fresh := without(r.Held, h.announced)
	if back := without(r.Put, fresh); len(back) > 0 {
		h.log.Warn("VIP was removed by someone else, put back", "vips", back)
		onEach(back, h.announce.Announce)
	}
	onEach(without(h.announced, r.Held), h.announce.Withdraw)
	onEach(fresh, h.announce.Announce)
	h.announced = r.Held
	return err
}

// Times of the repair of VIPs.
const (
	repairSettle = 20 * time.Millisecond // addresses go in groups
	repairPause  = time.Second           // between repairs, with somebody who does it again and again
)

// Run puts VIPs back as soon as somebody takes them away, or their interface
// is there again, until ctx ends.
func (h *heldVIPs) Run(ctx context.Context) error {
	defer h.claims.end()
	soon := time.AfterFunc(time.Hour, h.repair)
	defer soon.Stop()
	if err := vip.Watch(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		soon.Reset(max(repairSettle, time.Until(h.repaired.Add(repairPause))))
	}); err != nil {
		h.log.Warn("VIPs are looked after every ten seconds only", "err", err)
		<-ctx.Done()
	}
	return nil
}

func (h *heldVIPs) repair() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.wanted) == 0 {
		return
	}
	h.repaired = time.Now()
	if err := h.hold(); err != nil {
		h.log.Warn("VIPs not repaired", "err", err)
	}
}

// undo takes off what was put on since the start.
func (h *heldVIPs) undo() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.announced, h.wanted = nil, nil
	return h.holder.Undo()
}

// release takes the VIPs off that were put on.
func (h *heldVIPs) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	onEach(h.announced, h.announce.Withdraw)
	h.announced, h.wanted = nil, nil
	return h.holder.Release()
}

// onEach does something to addresses, interface by interface.
func onEach(places []vip.Place, do func(iface string, vips []netip.Addr)) {
	byInterface := map[string][]netip.Addr{}
	for _, p := range places {
		byInterface[p.Interface] = append(byInterface[p.Interface], p.Address)
	}
	for iface, vips := range byInterface {
		do(iface, vips)
	}
}

// without is what is in a and not in b.
func without[T comparable](a, b []T) []T {
	in := make(map[T]bool, len(b))
	for _, x := range b {
		in[x] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return in[x] })
}
