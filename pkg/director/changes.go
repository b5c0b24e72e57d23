package director

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/notify"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// listChanges compares two plans. What was not in the plan before is no news,
// and neither is what is gone.
func listChanges(before, after Planned, at time.Time) []notify.Event {
	var es []notify.Event
	quorum := before.quorums()
	for n := range after.Services { // by reference: there may be ten thousand
		s, svc := &after.Services[n], after.configured(n)
		verdicts := before.Memory.Up[s.Name]
		for i, r := range s.Reals {
			if was, known := verdicts.lookup(i, r.Key()); known && was != r.Up {
				es = append(es, notify.Event{
					Kind: notify.Real, Name: endpoint(&after.State.Services[n], r.Key()), Service: s.Name,
					Old: upDown(was), New: upDown(r.Up), Reason: r.Reason, Time: at, Commands: svc.RealCommands(i, r.Up),
				})
			}
		}
		if was, known := quorum(n, s.Name); known && was != s.Quorum {
			e := notify.Event{Kind: notify.Service, Name: s.Name, Old: upDown(was), New: upDown(s.Quorum), Reason: s.Reason, Time: at}
			if e.Commands = svc.Hooks.QuorumDown; s.Quorum {
				e.Commands = svc.Hooks.QuorumUp
			}
			if s.Sorry {
				e.Reason += ", the sorry server answers"
			}
			es = append(es, e)
		}
	}
	return es
}

// configured is the n-th service as the plan's configuration has it.
func (o *Planned) configured(n int) *config.Service {
	if c := o.Memory.config; c != nil && n < len(c.Services) && c.Services[n].Name == o.Services[n].Name {
		return &c.Services[n]
	}
	return new(config.Service)
}

// listStops are the events of services whose hooks are to be run when the
// director stops: what was up counts as down.
func listStops(out Planned, at time.Time) []notify.Event {
	var es []notify.Event
	for n := range out.Services {
		s, svc := &out.Services[n], out.configured(n)
		if !svc.Hooks.AtStop {
			continue
		}
		for i, r := range s.Reals {
			if r.Up {
				es = append(es, notify.Event{
					Kind: notify.Real, Name: endpoint(&out.State.Services[n], r.Key()), Service: s.Name, Old: "up", New: "down",
					Reason: textStops, Time: at, Commands: svc.RealCommands(i, false),
				})
			}
		}
		if s.Quorum {
			es = append(es, notify.Event{
				Kind: notify.Service, Name: s.Name, Old: "up", New: "down", Reason: textStops, Time: at, Commands: svc.Hooks.QuorumDown,
			})
		}
	}
	return es
}

const textStops = "the director stops"

// quorums reports whether a service, which most likely is the i-th, had quorum.
func (o *Planned) quorums() func(i int, service string) (had, known bool) {
	all := sync.OnceValue(func() map[string]bool {
		m := make(map[string]bool, len(o.Services))
		for i := range o.Services {
			m[o.Services[i].Name] = o.Services[i].Quorum
		}
		return m
	})
	return func(i int, service string) (had, known bool) {
		if i < len(o.Services) && o.Services[i].Name == service {
			return o.Services[i].Quorum, true
		}
		had, known = all()[service]
		return had, known
	}
}

// endpoint is a real's address with the port that it serves: its own, or that
// of the service's listener if there is one.
func endpoint(svc *lb.Service, real netip.AddrPort) string {
	if real.Port() == 0 && len(svc.Listeners) == 1 && svc.Listeners[0].Width() == 1 {
		real = netip.AddrPortFrom(real.Addr(), svc.Listeners[0].First)
	}
	return RealName(real)
}

// notifyChanges logs and notifies what changed between two plans.
func (d *Director) notifyChanges(before, after Planned) {
	for _, e := range listChanges(before, after, time.Now()) {
		level := slog.LevelInfo
		if e.New == "down" {
			level = slog.LevelWarn
		}
		var of []any
		if e.Kind == notify.Real {
			of = []any{"service", e.Service}
		}
		d.log.Log(context.Background(), level, line(e), of...) //nolint:sloglint // one line says it all, as keepalived's do
		d.notify(e)
		subject := e.Name
		if e.Kind == notify.Real {
			subject += " of " + e.Service
		}
		d.history.Add(history.Event{Time: e.Time, Kind: history.Health, Subject: subject, Text: join(e.New, e.Reason)})
	}
}

// join is a state and the reason for it.
func join(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + ": " + reason
}

// notifyRole passes a transition on. The router has logged it.
func (d *Director) notifyRole(e vrrp.Event) {
	d.roleChanges[e.Instance]++
	d.history.Add(history.Event{Time: e.At, Kind: history.Role, Subject: e.Instance, Text: join(e.Old.String()+" -> "+e.New.String(), e.Why)})
	d.notify(notify.Event{
		Kind: notify.VRRP, Name: e.Instance, Old: e.Old.String(), New: e.New.String(), Reason: e.Why, Time: e.At,
		Commands: d.cfg.RoleHooks[e.Instance].Commands(e.New.String()),
	})
}

func (d *Director) notify(e notify.Event) {
	if d.opt.Notify != nil {
		d.opt.Notify.Notify(e)
	}
}

// line is an event for the log: "rs 172.25.0.12:80 down: tcp connect:
// refused (failed 3 times)".
func line(e notify.Event) string {
	s := string(e.Kind) + " " + e.Name + " " + e.New
	if e.Kind == notify.Real {
		s = "rs " + e.Name + " " + e.New
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// RealName writes a real as people do: "172.25.0.12", or "172.25.0.12:81" if
// it has a port of its own.
func RealName(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
