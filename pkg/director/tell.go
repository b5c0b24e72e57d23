package director

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// Kind is what a [Change] is about.
type Kind string

// The kinds of changes.
const (
	RealChange    Kind = "real"    // a real went up or down
	ServiceChange Kind = "service" // a service reached or lost its quorum
	RoleChange    Kind = "vrrp"    // an instance changed its role
)

// Change is something that people want to hear of.
type Change struct {
	Kind     Kind
	At       time.Time
	Service  string // for a real and a service
	Real     string // "172.25.0.12:80" or "172.25.0.12"
	Instance string // for a role
	Old, New string // "up", "down", or keepalived's words for roles
	Reason   string
}

// String is the line for logs and mails: "rs 172.25.0.12:80 of web down: tcp
// connect: refused, 3 of 3".
func (c Change) String() string {
	var s string
	switch c.Kind {
	case RealChange:
		s = fmt.Sprintf("rs %s of %s %s", c.Real, c.Service, c.New)
	case ServiceChange:
		s = fmt.Sprintf("service %s %s", c.Service, c.New)
	case RoleChange:
		s = fmt.Sprintf("vrrp %s %s -> %s", c.Instance, c.Old, c.New)
	}
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// changes compares two plans. What was not in the plan before is no news,
// and neither is what is gone.
func changes(before, after Outcome, at time.Time) []Change {
	quorum := map[string]bool{}
	for _, s := range before.Services {
		quorum[s.Name] = s.Quorum
	}
	var cs []Change
	for _, s := range after.Services {
		for _, r := range s.Reals {
			if was, known := before.Memory.Up[RealKey{s.Name, r.Key()}]; known && was != r.Up {
				cs = append(cs, Change{
					Kind: RealChange, At: at, Service: s.Name, Real: addrString(r.Key()),
					Old: upDown(was), New: upDown(r.Up), Reason: r.Reason,
				})
			}
		}
		if was, known := quorum[s.Name]; known && was != s.Quorum {
			c := Change{Kind: ServiceChange, At: at, Service: s.Name, Old: upDown(was), New: upDown(s.Quorum), Reason: s.Reason}
			if s.Sorry {
				c.Reason += ", the sorry server answers"
			}
			cs = append(cs, c)
		}
	}
	return cs
}

// tell logs and notifies what changed between two plans.
func (d *Director) tell(before, after Outcome) {
	for _, c := range changes(before, after, time.Now()) {
		d.announce(c)
	}
}

func (d *Director) tellRole(e vrrp.Event) {
	d.announce(Change{
		Kind: RoleChange, At: e.At, Instance: e.Instance,
		Old: e.Old.String(), New: e.New.String(), Reason: e.Why,
	})
}

func (d *Director) announce(c Change) {
	level := slog.LevelInfo
	if c.New == "down" || c.New == vrrp.Fault.String() {
		level = slog.LevelWarn
	}
	d.log.Log(context.Background(), level, c.String()) //nolint:sloglint // the line that mails carry, too
	if d.opt.Notify != nil {
		d.opt.Notify.Notify(c)
	}
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// addrString leaves out a port of 0: the real has none of its own.
func addrString(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
