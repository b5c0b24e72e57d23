package neigh

import (
	"fmt"
	"log/slog"
	"net/netip"
)

// Routers: a real that is not on the segment has the MAC of the router that it
// is behind, which is a target of its own and is asked like a real.

// logOf is the log of a target: it says which of them are routers.
func (l *loop) logOf(t *target) *slog.Logger {
	if t.isRouter {
		return l.log.With("router", true)
	}
	return l.log
}

// askedFor is the target that is asked for the MAC of a real; nil if none is.
func (l *loop) askedFor(real netip.Addr) *target {
	t := l.targets[real]
	if t != nil && t.path.gateway.IsValid() {
		return l.targets[t.path.gateway]
	}
	return t
}

// targetOf is whom an event is about; nil if nobody asks for it.
func (l *loop) targetOf(e event) *target {
	if t := l.targets[e.addr]; t != nil {
		return t
	}
	return l.targets[onLink(e.addr, e.ifindex)]
}

// keepRouters takes the routers of former targets over; those that no target
// is behind go with the next look at the routes.
func (l *loop) keepRouters(old map[netip.Addr]*target) {
	for a, t := range old {
		if t.isRouter && l.targets[a] == nil {
			l.targets[a] = t
		}
	}
}

// addRouters makes targets of the routers on the paths that are not known yet,
// and returns them.
func (l *loop) addRouters(paths []path) (added []netip.Addr) {
	for _, p := range paths {
		if p.gateway.IsValid() && l.targets[p.gateway] == nil {
			l.targets[p.gateway] = &target{addr: p.gateway, isRouter: true}
			added = append(added, p.gateway)
		}
	}
	return added
}

// dropRouters forgets the routers that no target is behind.
func (l *loop) dropRouters() {
	needed := map[netip.Addr]bool{}
	for _, t := range l.targets {
		if t.path.gateway.IsValid() && !t.isRouter {
			needed[t.path.gateway] = true
		}
	}
	l.routers = needed
	for a := range l.gateways {
		needed[a] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for a, t := range l.targets {
		if t.isRouter && !needed[a] {
			delete(l.targets, a)
			delete(l.entries, a)
		}
	}
}

// entryOf is what the rest of lvx may know of a target. What its router lacks is
// no fault of the target.
func (l *loop) entryOf(t *target) Entry {
	e := t.entry()
	if !t.path.gateway.IsValid() {
		return e
	}
	e.Gateway = t.path.gateway.WithZone("")
	router := l.targets[t.path.gateway]
	if t.isRouter || router == nil {
		e.Err, e.Pending, e.OwnLink = fmt.Sprintf("no way to %s", t.addr), false, true
		return e
	}
	of := router.entry()
	e.MAC, e.Err, e.Pending, e.Silent, e.OwnLink = of.MAC, "", of.Pending, false, of.Err != "" && !of.Pending
	if of.Err != "" {
		e.Err = fmt.Sprintf("the router of %s: %s", t.addr, of.Err)
	}
	return e
}

// publishBehind makes known what a router's state means for the targets behind it.
func (l *loop) publishBehind(router *target) {
	if !l.routers[router.addr] {
		return
	}
	for _, t := range l.targets {
		if t != router && t.path.gateway == router.addr {
			l.publishEntry(t)
		}
	}
}
