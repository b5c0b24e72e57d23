package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// ErrLastReal says that a drain would leave a service without a real that
// takes connections.
var ErrLastReal = errors.New("no other real would take connections")

// SetWeight lets an operator's weight win over the configuration's; nil
// gives the configuration its say again. real is "ADDR" or "ADDR:PORT".
func (d *Director) SetWeight(ctx context.Context, service, real string, weight *uint16) (Result, error) {
	return d.changeOverride(ctx, change{service: service, real: real, clears: weight == nil, edit: func(o *Override) { o.Weight = weight }})
}

// DrainOptions say how to drain a real.
type DrainOptions struct {
	Undo  bool `json:"undo,omitempty"`  // give the real its weight back
	Force bool `json:"force,omitempty"` // also if no other real takes connections

	// Clients that persistence binds to the real go elsewhere with their next
	// connection, not when their templates expire.
	NowPersistent bool `json:"now_persistent,omitempty"`
}

// Drain gives a real weight 0: its connections stay, it gets no new ones.
func (d *Director) Drain(ctx context.Context, service, real string, o DrainOptions) (Result, error) {
	return d.changeOverride(ctx, change{
		service: service, real: real, clears: o.Undo, mayEmpty: o.Undo || o.Force, unbinds: o.NowPersistent && !o.Undo,
		edit: func(v *Override) { v.Drain = !o.Undo },
	})
}

// change is one change of an operator's override.
type change struct {
	service, real string
	clears        bool // the override, so that it may be a stale one
	mayEmpty      bool // the service may be left without a real that takes connections
	unbinds       bool // the real's persistent clients are let go
	edit          func(*Override)
}

// changeOverride changes one override. It is in force before anybody tries to
// store it: a disk that does not take it is said in the result.
func (d *Director) changeOverride(ctx context.Context, c change) (r Result, err error) {
	uid := uidOf(ctx)
	err = d.do(ctx, func(ctx context.Context) error {
		key, err := d.findReal(c.service, c.real, c.clears)
		if err != nil {
			return err
		}
		next := d.overrides.edit(c.service, key, c.edit)
		if i := next.find(c.service, key); i >= 0 && next[i].Drain && !c.mayEmpty && d.isLastReal(c.service, key) {
			return fmt.Errorf("drain %s of %s: %w (--force drains it all the same)", RealName(key), c.service, ErrLastReal)
		}
		d.overrides = next
		if d.notes.overrides != nil {
			_ = d.notes.overrides.Put(next) // plain values: they can be encoded
		}
		err = d.applyPlan(ctx, ignoreResult)
		d.recordResult(ctx, err)
		if err != nil {
			err = fmt.Errorf("in force, but not applied yet: %w", err)
		}
		unbound := ""
		if c.unbinds && err == nil { // else clients would only be bound to it again
			unbound, err = d.unbind(c.service, key)
		}
		did := d.describeReal(c.service, key) + unbound
		r.Did = []string{did}
		d.log.Info("operator override", "service", c.service, "real", RealName(key), "now", did)
		d.history.Add(history.Event{Kind: history.Operator, Subject: RealName(key) + " of " + c.service, Text: strings.TrimPrefix(did, c.service+" "+RealName(key)+": "), UID: uid})
		return err
	})
	if r.Did != nil && d.notes.overrides != nil {
		wait, cancel := context.WithTimeout(ctx, noteWriteTime)
		defer cancel()
		if d.notes.overrides.Wait(wait) != nil {
			r.Warning = "in force, but not stored: it will not survive a restart (see lvx status)"
		}
	}
	return r, err
}

// isLastReal reports whether a service has no real that takes connections but
// this one.
func (d *Director) isLastReal(service string, real netip.AddrPort) bool {
	for i := range d.out.Services {
		p := &d.out.Services[i]
		if p.Name != service {
			continue
		}
		others, itself := false, false
		for _, r := range p.Reals {
			takes := r.Up && r.Weight > 0
			if r.Key() == real {
				itself = takes
			} else {
				others = others || takes
			}
		}
		return itself && !others
	}
	return false
}

// describeReal says in a line what the operator's command has made of a real:
// "web 10.0.0.11: drained; 3 active and 1 inactive connections are left".
func (d *Director) describeReal(service string, key netip.AddrPort) string {
	name := service + " " + RealName(key)
	for _, p := range d.out.Services {
		if p.Name != service {
			continue
		}
		for _, r := range p.Reals {
			if r.Key() == key {
				return name + ": " + r.words() + d.remaining(service, r)
			}
		}
	}
	return name + ": override cleared; no such real is configured"
}

// words is a real's weight and who gave it.
func (rp RealPlan) words() string {
	switch {
	case rp.Drained:
		return "drained"
	case rp.Override:
		return fmt.Sprintf("weight %d (configured %d)", rp.Weight, rp.Configured)
	}
	return fmt.Sprintf("weight %d, as configured", rp.Weight)
}

// remaining is what is left on a real that gets no new connections.
func (d *Director) remaining(service string, r RealPlan) string {
	if r.Weight != 0 {
		return ""
	}
	st, err := d.opt.Backend.Stats()
	if err != nil {
		return ""
	}
	text := "; "
	if !r.Up {
		text += "it is down; "
	}
	if left, ok := statsOf(st, service, r.Key()); ok {
		text += fmt.Sprintf("%d active and %d inactive connections are left", left.Active, left.Inactive)
	} else {
		text += "how many connections are left is not known"
	}
	return text + d.describeBound(service, r.Key())
}

// namedClients is how many clients a drain names.
const namedClients = 8

// describeBound names the clients that persistence leads to a drained real.
func (d *Director) describeBound(service string, real netip.AddrPort) string {
	binder, ok := d.opt.Backend.(lb.Binder)
	if !ok {
		return ""
	}
	clients, n, err := binder.Bound(service, real, namedClients)
	if err != nil {
		d.log.Warn("not all clients that persistence binds are known", "service", service, "real", RealName(real), "err", err)
	}
	if n == 0 {
		return ""
	}
	names := make([]string, 0, len(clients)+1)
	for _, c := range clients {
		if c.IsSingleIP() {
			names = append(names, c.Addr().String())
		} else {
			names = append(names, c.String())
		}
	}
	slices.Sort(names)
	if n > len(clients) {
		names = append(names, fmt.Sprintf("%d more", n-len(clients)))
	}
	return fmt.Sprintf("; persistence leads %s back to it until their templates expire (lvx drain --now-persistent lets them go)", strings.Join(names, ", "))
}

// unbind lets the persistent clients of a drained real go, and says so.
func (d *Director) unbind(service string, real netip.AddrPort) (string, error) {
	binder, ok := d.opt.Backend.(lb.Binder)
	if !ok {
		return "", fmt.Errorf("persistent clients stay: %w", errors.ErrUnsupported)
	}
	n, err := binder.Unbind(service, real)
	switch {
	case err != nil && n > 0:
		return "", fmt.Errorf("%s takes no new clients, and %d that persistence binds to it go elsewhere, but others stay: %w", RealName(real), n, err)
	case err != nil:
		return "", fmt.Errorf("%s takes no new clients, but those that persistence binds to it stay: %w", RealName(real), err)
	}
	return fmt.Sprintf("; %d persistent clients go elsewhere with their next connection", n), nil
}

// statsOf finds the counters of a real.
func statsOf(st lb.Stats, service string, real netip.AddrPort) (r lb.RealStats, ok bool) {
	for i := range st.Services {
		if st.Services[i].Name == service {
			return st.Services[i].Real(real)
		}
	}
	return r, false
}
