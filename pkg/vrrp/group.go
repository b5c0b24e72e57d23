package vrrp

import "time"

// Group are the machines that fail over together (keepalived's
// vrrp_sync_group); most groups have one member. It has no state of its
// own: what one member says of the host or loses holds for all, and no
// member takes over before all of them want to, because a master of one segment
// alone would be thrown out by the group's master of the other.
type Group []*Machine

// Step is one action of one member.
type Step struct {
	Machine *Machine
	Action  Action
}

// Step gives an input to member m and lets the group follow. The steps are
// in the order in which they must be done.
func (g Group) Step(m *Machine, in Input, now time.Time) []Step {
	was := m.role
	steps := appendSteps(nil, m, m.step(in, now))
	switch in.(type) {
	case Stop, Replace: // a member that ends leaves the others as they are
		return steps
	}
	if fault := g.firstFault(); fault != "" || m.role == Fault {
		for _, o := range g {
			why := fault
			if o.fault != "" {
				why = o.fault
			}
			steps = appendSteps(steps, o, o.setFault(why, now))
		}
		if fault != "" {
			return steps
		}
	}
	if was == Master && m.role == Backup {
		for _, o := range g {
			if o.role == Master && !o.stopping {
				steps = appendSteps(steps, o, o.yieldToGroup(now, "group follows "+m.cfg.Name))
			}
		}
	}
	if g.allWantMaster() {
		for _, o := range g {
			if o.role == Backup {
				steps = appendSteps(steps, o, o.takeOver())
			}
		}
	}
	return steps
}

func appendSteps(steps []Step, m *Machine, acts []Action) []Step {
	for _, a := range acts {
		steps = append(steps, Step{m, a})
	}
	return steps
}

// firstFault is the fault of any member, "" if all are well.
func (g Group) firstFault() string {
	for _, m := range g {
		if m.fault != "" {
			if len(g) > 1 {
				return m.cfg.Name + ": " + m.fault
			}
			return m.fault
		}
	}
	return ""
}

// allWantMaster reports whether every member is master or wants to be.
func (g Group) allWantMaster() bool {
	for _, m := range g {
		if m.role != Master && !(m.role == Backup && m.wantsMaster && (m.waiting == "" || m.hasOldVIPs)) {
			return false
		}
	}
	return true
}
