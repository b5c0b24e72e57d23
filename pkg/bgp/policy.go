package bgp

import (
	"fmt"
	"net/netip"
	"time"
)

// VIP is what the director knows of a virtual address.
type VIP struct {
	Addr      netip.Addr
	IsServing bool   // enough of its services have quorum for it to be announced
	Why       string // why it is not serving, for people
}

// Input is what a [Policy] decides from.
type Input struct {
	VIPs       []VIP
	IsReady    bool   // the data path holds its state, and connection sync is in step or has been waited for
	NotReady   string // what is waited for, for people
	IsDraining bool   // this director is being taken out of service
	Withdrawn  string // why nothing is announced whatever serves, for people; "": it is
}

// Decision is what becomes of a virtual address.
type Decision struct {
	Addr        netip.Addr `json:"vip"`
	IsAnnounced bool       `json:"announced"`
	IsDraining  bool       `json:"draining,omitempty"`
	Reason      string     `json:"reason,omitempty"` // why it is not announced, "" if it is
	Until       time.Time  `json:"until,omitzero"`   // when it will be, if nothing changes; zero: unknown
}

// Policy decides which virtual addresses are announced. It remembers only
// what damping needs: when each address was withdrawn for lack of service.
type Policy struct {
	HoldUp time.Duration // an address that was withdrawn must serve so long before it is announced again

	known map[netip.Addr]*memory
}

// memory is what is remembered of one address.
type memory struct {
	wasAnnounced bool
	withdrawn    flaps
	serving      time.Time // since when; zero: it is not
}

// Decide says for every address what becomes of it at now. An address is
// withdrawn at once, and announced again after HoldUp of service, longer if it
// went away more than five times in five minutes. The first announcement waits
// for nothing but in.IsReady.
func (p *Policy) Decide(now time.Time, in Input) []Decision {
	if p.known == nil {
		p.known = map[netip.Addr]*memory{}
	}
	decisions := make([]Decision, 0, len(in.VIPs))
	listed := make(map[netip.Addr]bool, len(in.VIPs))
	for _, v := range in.VIPs {
		listed[v.Addr] = true
		m := p.known[v.Addr]
		if m == nil {
			m = &memory{}
			p.known[v.Addr] = m
		}
		decisions = append(decisions, p.decide(now, in, v, m))
	}
	for addr := range p.known {
		if !listed[addr] {
			delete(p.known, addr)
		}
	}
	return decisions
}

func (p *Policy) decide(now time.Time, in Input, v VIP, m *memory) Decision {
	d := Decision{Addr: v.Addr, IsDraining: in.IsDraining}
	m.withdrawn.forget(now)
	if !v.IsServing {
		if m.wasAnnounced {
			m.withdrawn = append(m.withdrawn, now)
		}
		m.wasAnnounced, m.serving = false, time.Time{}
		d.Reason = v.Why
		return d
	}
	if m.serving.IsZero() {
		m.serving = now
	}
	hold := m.withdrawn.hold(p.HoldUp)
	switch until := m.serving.Add(hold); {
	case in.Withdrawn != "":
		m.wasAnnounced = false
		d.Reason = in.Withdrawn
	case !in.IsReady:
		m.wasAnnounced = false
		d.Reason = in.NotReady
	case now.Before(until) && !m.wasAnnounced:
		d.Reason = fmt.Sprintf("serves again, announced after %s of service", hold)
		if m.withdrawn.isFlapping() {
			d.Reason = fmt.Sprintf("%s: announced after %s of service", m.withdrawn.describe("withdrawn"), hold)
		}
		d.Until = until
	default:
		m.wasAnnounced = true
		d.IsAnnounced = true
	}
	return d
}

// Routes are the routes of the addresses that are announced.
func Routes(decisions []Decision) []Route {
	var routes []Route
	for _, d := range decisions {
		if d.IsAnnounced {
			routes = append(routes, Route{Addr: d.Addr, IsDraining: d.IsDraining})
		}
	}
	return routes
}

// Next is when Decide has to be asked again although nothing has changed; zero:
// never.
func Next(decisions []Decision) time.Time {
	var next time.Time
	for _, d := range decisions {
		if !d.Until.IsZero() && (next.IsZero() || d.Until.Before(next)) {
			next = d.Until
		}
	}
	return next
}
