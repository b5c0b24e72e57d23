package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/vip"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// routersNoteTime is how long a start waits for the notes of an earlier one.
const routersNoteTime = time.Second

// routersLeft takes off what virtual routers have left that are no longer in the file
// as the daemon starts: a restart keeps a master's VIPs for the next run, which knows
// nothing of routers that it does not have.
type routersLeft struct {
	notes    *jsonfile.Keeper
	boot     string
	resigned atomic.Bool // the earlier run told its peers: one of them may be the master

	mu   sync.Mutex
	left []routerVIPs // of an earlier run; behind note, what is there of former routers and are VIPs still
}

// routerVIPs are the VIPs of a virtual router on one interface, and what goes with them.
type routerVIPs struct {
	Interface string
	VIPs      []netip.Prefix
	Routing   vip.Routing
}

// routersNote is what the file holds.
type routersNote struct {
	Boot     string // of which the addresses are
	Routers  []routerVIPs
	Resigned bool
}

// newRoutersLeft makes one that has its notes in a file. Notes that cannot be read or
// written are no reason not to start: report hears of them.
func newRoutersLeft(file string, report func(error)) *routersLeft {
	r := &routersLeft{notes: jsonfile.NewKeeper(file, 0o600, report)}
	boot, err := vip.BootID()
	if err != nil {
		report(err)
	}
	note, err := jsonfile.Within(routersNoteTime, func() (n routersNote, err error) {
		err = jsonfile.Read(file, &n)
		return n, err
	})
	switch r.boot = boot; {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		report(err)
	case note.Boot == boot:
		r.left = note.Routers
		r.resigned.Store(note.Resigned)
	}
	return r
}

// note keeps which VIPs virtual routers may put on interfaces, beside what is left of
// others; where one of them has such a VIP elsewhere, that goes. An address owner has its
// VIPs without lvx. Behind a run that resigned the next one listens for peers.
func (r *routersLeft) note(routers []vrrp.Instance, resigned bool) error {
	var all []routerVIPs
	taken, moved := map[vip.Place]bool{}, map[netip.Addr]bool{}
	for _, i := range routers {
		for n, p := range i.Places() {
			for _, v := range p.VIPs {
				taken[vip.Place{Interface: p.Interface, Address: v.Addr()}], moved[v.Addr()] = true, true
			}
			if i.Priority == vrrp.OwnerPriority {
				continue
			}
			at := routerVIPs{Interface: p.Interface, VIPs: p.VIPs}
			if n == 0 {
				at.Routing = i.Routing
			}
			all = append(all, at)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := map[netip.Addr]bool{}
	for i := range r.left {
		at := &r.left[i]
		at.Routing = vip.Routing{} // which another router may have by now
		at.VIPs = slices.DeleteFunc(slices.Clone(at.VIPs), func(p netip.Prefix) bool { return taken[vip.Place{Interface: at.Interface, Address: p.Addr()}] })
		for _, p := range at.VIPs {
			kept[p.Addr()] = !moved[p.Addr()]
		}
	}
	err := r.remove(kept)
	if all = append(all, r.left...); len(all) == 0 {
		r.notes.Clear()
		return err
	}
	_ = r.notes.Put(routersNote{r.boot, all, resigned}) // plain values: they can be encoded
	return err
}

// takeOff takes off what an earlier run has left, but for the VIPs that are VIPs still.
func (r *routersLeft) takeOff(vips map[netip.Addr]bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remove(vips)
}

func (r *routersLeft) remove(vips map[netip.Addr]bool) error {
	isVIP := func(p netip.Prefix) bool { return vips[p.Addr()] }
	var staying vip.Routing // of routers that are there still, or of others with their VIPs
	for _, at := range r.left {
		if slices.ContainsFunc(at.VIPs, isVIP) {
			staying.Routes = append(staying.Routes, at.Routing.Routes...)
			staying.Rules = append(staying.Rules, at.Routing.Rules...)
		}
	}
	var errs []error
	var kept []routerVIPs
	for _, at := range r.left {
		errs = append(errs, at.Routing.Without(staying).Remove())
		link, err := net.InterfaceByName(at.Interface)
		if err != nil {
			continue
		}
		there, _, err := vip.List(link.Index)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		removed := slices.DeleteFunc(slices.Clone(at.VIPs), isVIP)
		at.VIPs = slices.DeleteFunc(slices.Clone(at.VIPs), func(p netip.Prefix) bool { return !isVIP(p) || !slices.Contains(there, p) })
		if len(at.VIPs) > 0 {
			kept = append(kept, at)
		}
		if len(removed) > 0 {
			errs = append(errs, vip.Remove(link.Index, removed))
		}
	}
	r.left = kept
	return errors.Join(errs...)
}

// run writes the notes until ctx ends.
func (r *routersLeft) run(ctx context.Context) error { return r.notes.Run(ctx, time.Second) }

// release takes off what an earlier run has left, and forgets everything: the VIPs of
// virtual routers are off.
func (r *routersLeft) release() error {
	err := r.takeOff(nil)
	r.notes.Clear()
	return err
}
