package vrrp

import (
	"fmt"
	"net/netip"
	"time"
)

// Machine is the state machine of one virtual router (RFC 5798 section
// 6.4). It is pure: [Group.Step] gives it inputs and the time, and it
// answers with what has to be done, in order. Only an accepted
// advertisement moves its timers.
//
// It differs from the RFC where keepalived does (fault, nopreempt, preempt
// delay) and where a hard switch would lose packets:
//   - A master that stops resigns first and keeps its VIPs until another
//     one speaks, or until every backup must have spoken. If none has, it may
//     leave them for its own next start.
//   - A master that yields to a better one answers it once, so that the
//     winner knows of its rival and announces itself again.
//   - A master that stood still (its process was stopped, its machine paused) for so
//     long that another one took over yields to whoever did: it takes over again as
//     one that returns does.
//   - A router that finds its VIPs on the interface when it starts, left
//     there by a run that was killed, keeps them and listens for one advert
//     interval: if no other master speaks it goes on as master.
type Machine struct {
	cfg     Instance
	self    netip.Addr // primary address: breaks ties between equal priorities
	role    Role
	why     string
	penalty int    // what tracked things take off the priority
	fault   string // why nothing may be owned, "" if all is well
	waiting string // backup: why it does not take over yet; VIPs of an earlier run are not taken over
	bearing string // backup: why it does not preempt

	active      bool // master: the VIPs are in place, adverts are sent
	stopping    bool // master: has resigned, waits for a successor
	leaving     bool // stopping: the VIPs stay if no successor speaks
	hasOldVIPs  bool // backup: VIPs of an earlier run are still in place
	wantsMaster bool // backup: has waited long enough, takes over when its group does

	interval   time.Duration // the master's; version 3 learns it from adverts
	masterDown time.Time     // backup: when the master counts as dead
	preemptAt  time.Time     // backup: when a worse master has been borne long enough
	cause      string        // backup: why it is going to take over, if the master is not just silent
	notBefore  time.Time     // backup: end of the start-up delay
	nextAdvert time.Time     // master
	lastAdvert time.Time     // master
	leaseEnds  time.Time     // master: of the lease that came with the last advert
	stopBy     time.Time     // stopping: when waiting is over
}

// NewMachine makes a machine in Init that wakes on [Start].
func NewMachine(cfg Instance) *Machine {
	return &Machine{cfg: cfg, interval: cfg.AdvertInterval}
}

// Role is the machine's state.
func (m *Machine) Role() Role { return m.role }

// Active reports whether the machine is a master whose VIPs are in place.
func (m *Machine) Active() bool { return m.role == Master && m.active }

// Priority is the effective priority: the configured one less what tracked
// things take off. An address owner's 255 stays.
func (m *Machine) Priority() uint8 {
	if m.cfg.Priority == OwnerPriority {
		return OwnerPriority
	}
	return uint8(min(max(int(m.cfg.Priority)-m.penalty, 1), 254))
}

// Deadline is when the machine wants its next [Tick]; zero if never.
func (m *Machine) Deadline() time.Time {
	switch {
	case m.role == Backup && !m.wantsMaster:
		at := m.masterDown
		if !m.preemptAt.IsZero() && m.preemptAt.Before(at) {
			at = m.preemptAt
		}
		if at.Before(m.notBefore) {
			at = m.notBefore
		}
		return at
	case m.role == Master && m.stopping:
		return m.stopBy
	case m.role == Master && m.active:
		return m.nextAdvert
	}
	return time.Time{}
}

// step handles one input on behalf of a group, which decides about taking
// over and shares faults.
func (m *Machine) step(in Input, now time.Time) []Action {
	switch in := in.(type) {
	case Start:
		return m.handleStart(in, now)
	case Heard:
		return m.handleAdvert(in, now)
	case Tick:
		return m.handleTick(now)
	case Ready:
		return m.handleReady(now)
	case Failed:
		if m.role == Master && !m.active {
			return m.toBackup(now, "cannot serve: "+in.Err.Error(), false)
		}
	case Condition:
		m.self, m.penalty, m.fault, m.waiting, m.bearing = in.Self, in.Penalty, in.Fault, in.Wait, in.Bear
	case Rival:
		if m.Active() && !m.stopping {
			return []Action{Announce{}}
		}
	case Configure:
		return m.configure(in.Instance, now)
	case Stop:
		return m.handleStop(in, now)
	case Replace:
		return m.handleReplace()
	}
	return nil
}

func (m *Machine) handleStart(in Start, now time.Time) []Action {
	m.self = in.Self
	if m.fault != "" {
		return append(m.changeRole(Fault, m.fault), Drop{})
	}
	m.notBefore = now.Add(m.cfg.StartupDelay)
	acts := m.changeRole(Backup, "lvx started")
	m.armMasterDown(now)
	m.hasOldVIPs = in.Holding
	switch {
	case m.cfg.Priority == OwnerPriority:
		m.masterDown = m.notBefore
		m.wantsMaster = m.cfg.StartupDelay == 0
	case in.Holding:
		m.notBefore = now
		m.masterDown = now.Add(m.cfg.listenTime())
		m.wantsMaster = in.Resume
	}
	if in.Holding {
		return acts
	}
	return append(acts, Drop{})
}

// armMasterDown arms the timer for the death of a master.
func (m *Machine) armMasterDown(now time.Time) {
	m.wantsMaster, m.cause = false, ""
	m.masterDown = now.Add(3*m.interval + m.cfg.skewTime(m.Priority(), m.interval))
}

func (m *Machine) handleTick(now time.Time) []Action {
	if at := m.Deadline(); at.IsZero() || now.Before(at) {
		return nil
	}
	switch {
	case m.role == Backup:
		m.wantsMaster = true
		return nil
	case m.stopping && m.leaving:
		m.active, m.stopping = false, false
		return append(m.changeRole(Init, "stopped, no successor spoke: the VIPs wait for the next start"), Leave{})
	case m.stopping:
		return m.endMaster("stopped, no successor spoke", false)
	}
	for !m.nextAdvert.After(now) { // absolute deadlines: being late once moves nothing
		m.nextAdvert = m.nextAdvert.Add(m.cfg.AdvertInterval)
	}
	return m.advertise(now)
}

func (m *Machine) advertise(now time.Time) []Action {
	m.lastAdvert, m.leaseEnds = now, now.Add(m.cfg.leaseTime(m.Priority()))
	return []Action{Advertise{m.Priority()}}
}

// takeOver makes a backup master; its group calls it when all members want.
func (m *Machine) takeOver() []Action {
	why := "no other master was heard"
	switch {
	case m.cfg.Priority == OwnerPriority:
		why = "owns the addresses"
	case m.hasOldVIPs:
		why = "resumes after a restart"
	case m.cause != "":
		why = m.cause
	}
	m.active, m.hasOldVIPs, m.wantsMaster, m.preemptAt = false, false, false, time.Time{}
	return append(m.changeRole(Master, why), Take{})
}

func (m *Machine) handleReady(now time.Time) []Action {
	switch {
	case m.role != Master || m.stopping:
		return nil
	case m.active: // the VIPs changed under way
		return []Action{Announce{}}
	}
	m.active = true
	m.nextAdvert = now.Add(m.cfg.AdvertInterval)
	return append(m.advertise(now), Announce{})
}

func (m *Machine) handleAdvert(in Heard, now time.Time) []Action {
	if in.From == m.self {
		return nil // our own words, reflected
	}
	switch m.role {
	case Backup:
		return m.heardAsBackup(in, now)
	case Master:
		return m.heardAsMaster(in, now)
	}
	return nil
}

func (m *Machine) heardAsBackup(in Heard, now time.Time) (acts []Action) {
	if in.Priority == 0 {
		m.wantsMaster, m.preemptAt, m.cause = false, time.Time{}, in.From.String()+" has resigned"
		m.masterDown = now.Add(m.cfg.skewTime(m.Priority(), m.interval))
		return nil
	}
	if m.hasOldVIPs {
		m.hasOldVIPs = false
		m.armMasterDown(now)
		m.why = fmt.Sprintf("%s is master with priority %d", in.From, in.Priority)
		acts = []Action{Drop{Linger: true}}
	}
	// The owner always preempts (section 6.1), but for a reason of its own.
	waits := m.cfg.NoPreempt && m.cfg.Priority != OwnerPriority || m.bearing != ""
	if waits || in.Priority >= m.Priority() {
		m.learnInterval(in.Interval)
		m.preemptAt = time.Time{}
		m.armMasterDown(now)
		return acts
	}
	m.cause = fmt.Sprintf("preempts %s, priority %d", in.From, in.Priority)
	if m.cfg.PreemptDelay == 0 {
		return acts // the timer runs on: section 6.4.2, "discard the ADVERTISEMENT"
	}
	if m.preemptAt.IsZero() {
		m.preemptAt = now.Add(m.cfg.PreemptDelay)
		if m.preemptAt.Before(m.masterDown) {
			m.preemptAt = m.masterDown
		}
	}
	if now.Before(m.preemptAt) {
		m.learnInterval(in.Interval)
		cause := m.cause
		m.armMasterDown(now)
		m.cause = cause
	}
	return acts
}

// learnInterval takes over the master's advert interval (RFC 5798 section 6.1,
// Master_Adver_Interval). Version 2 accepts no other than its own.
func (m *Machine) learnInterval(interval time.Duration) {
	if m.cfg.Version == 3 {
		m.interval = interval
	}
}

func (m *Machine) heardAsMaster(in Heard, now time.Time) []Action {
	better := in.Priority > m.Priority() || in.Priority == m.Priority() && m.self.Less(in.From)
	switch {
	case m.stopping && in.Priority == 0:
		return nil
	case m.stopping:
		return m.endMaster(fmt.Sprintf("stopped, %s has taken over", in.From), true)
	case in.Priority != 0 && m.hasStoodStill(now):
		m.learnInterval(in.Interval)
		why := fmt.Sprintf("stood still for %s, %s has taken over", now.Sub(m.lastAdvert).Round(time.Millisecond), in.From)
		return append([]Action{Resign{}}, m.toBackup(now, why, true)...)
	case better:
		var acts []Action
		if m.active {
			acts = m.advertise(now)
		}
		m.learnInterval(in.Interval)
		why := fmt.Sprintf("%s has priority %d", in.From, in.Priority)
		return append(acts, m.toBackup(now, why, true)...)
	case !m.active:
		return nil
	}
	// Another master, and we are the better one: it must hear so, and
	// every station where the VIPs are. Two masters that each believe to be the
	// better one (addresses rewritten on the way) must not chatter.
	if now.Sub(m.lastAdvert) < m.cfg.AdvertInterval/8 {
		return []Action{Announce{}}
	}
	return append(m.advertise(now), Announce{})
}

// hasStoodStill reports whether a master has sent nothing for longer than its lease:
// another one may have taken over, and what is known here may be old. The owner of
// the addresses has them all the same.
func (m *Machine) hasStoodStill(now time.Time) bool {
	return m.Active() && !m.stopping && m.cfg.Priority != OwnerPriority && now.After(m.leaseEnds)
}

// toBackup leaves any state but Init for Backup.
func (m *Machine) toBackup(now time.Time, why string, linger bool) []Action {
	m.active, m.stopping, m.hasOldVIPs, m.preemptAt = false, false, false, time.Time{}
	acts := m.changeRole(Backup, why)
	m.armMasterDown(now)
	return append(acts, Drop{Linger: linger})
}

// yieldToGroup gives up mastership because another member of the group lost it.
func (m *Machine) yieldToGroup(now time.Time, why string) []Action {
	var acts []Action
	switch {
	case m.hasStoodStill(now):
		acts = []Action{Resign{}}
	case m.active:
		acts = []Action{Advertise{0}}
	}
	return append(acts, m.toBackup(now, why, true)...)
}

// setFault enters or leaves Fault; its group calls it with the fault of any
// of its members.
func (m *Machine) setFault(fault string, now time.Time) []Action {
	switch {
	case fault != "" && (m.role == Backup || m.role == Master):
		var acts []Action
		if m.active && !m.stopping {
			acts = []Action{Advertise{0}}
		}
		if m.stopping {
			return m.endMaster("stopped: "+fault, false)
		}
		m.active, m.hasOldVIPs, m.wantsMaster, m.preemptAt = false, false, false, time.Time{}
		acts = append(acts, m.changeRole(Fault, fault)...)
		return append(acts, Drop{})
	case fault == "" && m.role == Fault:
		acts := m.changeRole(Backup, "fault is over")
		m.interval = m.cfg.AdvertInterval
		m.armMasterDown(now)
		m.wantsMaster = m.cfg.Priority == OwnerPriority
		return acts
	case fault != "" && m.role == Fault:
		m.why = fault
	}
	return nil
}

// configure changes what may change under way: not the interface, the
// identifier or the family, which make another virtual router.
func (m *Machine) configure(cfg Instance, now time.Time) []Action {
	isRenamed := cfg.Name != m.cfg.Name
	m.cfg = cfg
	if m.role != Master {
		m.interval = cfg.AdvertInterval
		if m.role == Backup {
			m.armMasterDown(now)
		}
		if isRenamed && !m.hasOldVIPs {
			return []Action{Drop{}} // again: the data path may be given up by the old name just now
		}
		return nil
	}
	m.interval = cfg.AdvertInterval
	if soon := now.Add(cfg.AdvertInterval); m.nextAdvert.After(soon) {
		m.nextAdvert = soon
	}
	if m.stopping {
		return nil
	}
	return []Action{Take{}}
}

func (m *Machine) handleStop(in Stop, now time.Time) []Action {
	switch {
	case m.role == Init || m.stopping:
		return nil
	case !m.Active():
		return m.endMaster("stopped", false)
	}
	m.stopping, m.leaving = true, in.LeaveIfAlone
	m.stopBy = now.Add(m.cfg.successionTime())
	return []Action{Advertise{0}}
}

func (m *Machine) handleReplace() (acts []Action) {
	if m.Active() && !m.stopping {
		acts = []Action{Advertise{0}}
	}
	m.active, m.stopping, m.hasOldVIPs, m.wantsMaster = false, false, false, false
	return append(acts, m.changeRole(Init, "replaced by a reload")...)
}

func (m *Machine) endMaster(why string, linger bool) []Action {
	m.active, m.stopping, m.hasOldVIPs, m.wantsMaster = false, false, false, false
	return append(m.changeRole(Init, why), Drop{Linger: linger})
}

func (m *Machine) changeRole(to Role, why string) []Action {
	old := m.role
	m.role, m.why = to, why
	if old == to {
		return nil
	}
	return []Action{Change{Old: old, New: to, Why: why}}
}
