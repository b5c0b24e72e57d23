package director

import (
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// roleChange asks the loop to forward for a VRRP instance, or not to any more.
type roleChange struct {
	instance string
	active   bool
	done     chan error // gets the result of the sync that follows; capacity 1
}

// Activate makes the backend forward for a VRRP instance; it returns when it
// does. The router calls it before it puts the VIPs on the interface, so
// that they attract no traffic before their state is there. On error the
// backend does not forward for the instance.
func (d *Director) Activate(instance string) error {
	return d.setRole(roleChange{instance, true, make(chan error, 1)})
}

// Deactivate makes the backend inert for a VRRP instance.
func (d *Director) Deactivate(instance string) error {
	return d.setRole(roleChange{instance, false, make(chan error, 1)})
}

func (d *Director) setRole(r roleChange) error {
	select {
	case d.roles <- r:
		return <-r.done
	case <-d.done:
		return ErrStopped
	}
}

// inbox is what the loop waits for besides calls and timers. Everything
// that waits in it is answered by one plan.
type inbox struct {
	health <-chan health.Event
	vrrp   <-chan vrrp.Event
	neigh  <-chan struct{}
	roles  []roleChange // taken, not answered yet
}

func (d *Director) inbox() *inbox {
	in := &inbox{health: d.opt.Health.Events()}
	if d.opt.VRRP != nil {
		in.vrrp = d.opt.VRRP.Events()
	}
	if d.opt.Neigh != nil {
		in.neigh = d.opt.Neigh.Changed()
	}
	return in
}

// takeAll takes everything that is waiting.
func (in *inbox) takeAll(d *Director) {
	for {
		select {
		case _, ok := <-in.health:
			in.forgetEnded(&in.health, ok)
		case _, ok := <-in.neigh:
			if !ok {
				in.neigh = nil
			}
		case e, ok := <-in.vrrp:
			in.reportRole(d, e, ok)
		case r := <-d.roles:
			in.takeRole(d, r)
		default:
			return
		}
	}
}

// forgetEnded stops listening to a monitor that has ended: a closed channel is
// always ready, and draining it would never come to an end.
func (in *inbox) forgetEnded(events *<-chan health.Event, ok bool) {
	if !ok {
		*events = nil
	}
}

// reportRole notifies of a transition. What the backend does is decided by
// [Director.Activate].
func (in *inbox) reportRole(d *Director, e vrrp.Event, ok bool) {
	if !ok { // the router has ended
		in.vrrp = nil
		return
	}
	d.notifyRole(e)
}

func (in *inbox) takeRole(d *Director, r roleChange) {
	in.roles = append(in.roles, r)
	d.active[r.instance] = r.active
}

// switchRolesEarly changes roles ahead of the plan, if the backend can do that and
// holds what it should: all that a takeover needs is in place then.
func (d *Director) switchRolesEarly(in *inbox) {
	s, ok := d.opt.Backend.(lb.Switcher)
	if !ok || len(in.roles) == 0 || d.fault != "" {
		return
	}
	if err := s.Switch(withRoles(d.out.State.VIPs, d.active)); err == nil { // else the plan will tell
		in.answerRoles(d, nil)
	}
}

// answerRoles gives every waiting change of a role its result. An instance does
// not become active by an Apply that failed.
func (in *inbox) answerRoles(d *Director, err error) {
	for _, r := range in.roles {
		if err != nil && r.active {
			d.active[r.instance] = false
		}
		r.done <- err
	}
	in.roles = nil
}
