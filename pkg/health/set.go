package health

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Set makes the monitor ask exactly these targets; doubles count once.
// Targets that were asked before keep their status and their place in time.
// New ones are asked at once and are down until they pass; but one that asks
// a real the same kind of question on the same port as a target that went
// (the check was edited) starts from that one's status, the most similar one's
// if there are several, so that an edit takes no real out of service.
func (m *Monitor) Set(targets []Target) {
	m.setting.Lock()
	defer m.setting.Unlock()
	wanted := make(map[Target]bool, len(targets))
	var fresh []*probe
	for _, t := range targets {
		if !wanted[t] && !m.hasTarget(t) {
			fresh = append(fresh, m.newProbe(t))
		}
		wanted[t] = true
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	left := map[subject][]verdict{}
	for t, p := range m.probes {
		if !wanted[t] {
			left[t.subjectOf()] = append(left[t.subjectOf()], verdict{t, p.record.Status})
			m.removeProbe(p)
		}
	}
	for _, p := range fresh {
		s, ok := m.presets[p.target]
		delete(m.presets, p.target)
		if !ok {
			s, ok = closest(left[p.target.subjectOf()], p.target)
		}
		if ok && s.Known {
			p.record.restore(s)
			m.pendingEvents.put(Event{Target: p.target, New: p.record.Status})
		}
		m.probes[p.target] = p
		if m.byReal[p.target.Real] == nil {
			m.byReal[p.target.Real] = map[*probe]bool{}
		}
		m.byReal[p.target.Real][p] = true
		p.due = time.Since(m.start)
		m.addToAgenda(p)
	}
}

// Restore gives what was known of targets before a restart, so that not
// everything starts down. It counts for targets that have no result yet and
// for those that are set later; each is used once.
func (m *Monitor) Restore(known map[Target]Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.presets, func(Target, Status) bool { return true })
	for t, s := range known {
		if !s.Known {
			continue
		}
		if p, ok := m.probes[t]; !ok {
			m.presets[t] = s
		} else if !p.record.Known {
			p.record.restore(s)
			m.pendingEvents.put(Event{Target: t, New: s})
		}
	}
}

// subject is what a check is about, however it is asked.
type subject struct {
	typ  Type
	real netip.Addr
	port uint16
}

func (t Target) subjectOf() subject { return subject{t.Spec.Type, t.Real, t.Port} }

// question is t without how often it is asked and how packets get there.
func (t Target) question() Target {
	t.Forward, t.Encap = 0, lb.Encap{}
	s := &t.Spec
	s.Interval, s.Timeout, s.RetryDelay, s.Fall, s.Rise, s.Jitter = 0, 0, 0, 0, 0, 0
	return t
}

// verdict is what was known of a target.
type verdict struct {
	target Target
	status Status
}

// closest is the status of the target that is most like t: one that asks the same
// question, else one at the same VIP, else any. Of several, one that is down counts:
// no real serves by the answer to another question.
func closest(all []verdict, t Target) (s Status, ok bool) {
	best := -1
	for _, v := range all {
		likeness := 0
		switch {
		case v.target.question() == t.question():
			likeness = 2
		case v.target.VIP == t.VIP:
			likeness = 1
		}
		if likeness > best || likeness == best && !v.status.Up {
			best, s = likeness, v.status
		}
	}
	return s, best >= 0
}

func (m *Monitor) hasTarget(t Target) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probes[t] != nil
}

func (m *Monitor) newProbe(t Target) *probe {
	p := &probe{target: t, spec: t.Spec.WithDefaults(), slots: &m.sockets, index: -1, first: true}
	if t.Spec.Type == Exec || t.Spec.Type == File { // what may hang without a socket
		p.slots = &m.execs
	}
	p.record = newRecord(p.spec)
	var err error
	if p.checker, err = m.opts.New(t); err != nil {
		p.checker = brokenChecker{err}
	}
	return p
}

// removeProbe ends a probe. One that is on its way closes its checker itself.
func (m *Monitor) removeProbe(p *probe) {
	p.removed = true
	delete(m.probes, p.target)
	delete(m.byReal[p.target.Real], p)
	if len(m.byReal[p.target.Real]) == 0 {
		delete(m.byReal, p.target.Real)
	}
	m.agenda.remove(p)
	p.slots.waiting = slices.DeleteFunc(p.slots.waiting, func(q *probe) bool { return q == p })
	if !p.running {
		closeChecker(p.checker)
	}
}
