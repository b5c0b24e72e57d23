package director

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// Input is everything that [Plan] looks at.
type Input struct {
	Config    *config.Config
	Health    map[health.Target]health.Status
	Active    map[string]bool // VRRP instances, by name, that this host forwards for
	Overrides Overrides
	Memory    Memory // of the plan before
	ProbeVIP  bool   // probes can be addressed to the VIP, see [Targets]
}

// Memory is what one plan hands to the next one. The zero value is that of
// a daemon that has just started.
type Memory struct {
	Up     map[string]Verdicts // by service
	Quorum map[string]bool     // by service; no entry until quorum was reached once
	Leases map[string]uint32   // lease of every VRRP instance; stable while the instance exists
	Active []string            // VRRP instances that this host forwards for, sorted

	config *config.Config // that the VIPs below are of
	vips   []lb.VIP       // of the state, to be shared while nothing about them changes
}

// A Verdict is the last word on a real of a service.
type Verdict struct {
	Real netip.AddrPort
	Up   bool
}

// Verdicts are those on a service's reals, as far as there are any, in the
// order of the file. They are not changed in place.
type Verdicts []Verdict

// lookup finds the verdict on a real, which most likely is the i-th.
func (vs Verdicts) lookup(i int, real netip.AddrPort) (up, known bool) {
	if i < len(vs) && vs[i].Real == real {
		return vs[i].Up, true
	}
	for _, v := range vs {
		if v.Real == real {
			return v.Up, true
		}
	}
	return false, false
}

// update is what is remembered of a plan's reals: the old verdicts if they
// still say the same.
func (vs Verdicts) update(reals []RealPlan) Verdicts {
	same := len(vs) == len(reals)
	for i := 0; i < len(reals) && same; i++ {
		same = vs[i] == Verdict{reals[i].Key(), reals[i].Up}
	}
	if same {
		return vs
	}
	now := make(Verdicts, 0, len(reals))
	for _, r := range reals {
		now = append(now, Verdict{r.Key(), r.Up})
	}
	return now
}

// Planned is a plan with its reasons.
type Planned struct {
	State    lb.State
	Services []ServicePlan // in the order of the configuration
	Stale    []Override    // overrides whose service or real does not exist
	Memory   Memory
}

// ServicePlan is what was decided about one service.
type ServicePlan struct {
	Name   string
	Weight int    // sum of the weights of the reals that are up
	Quorum bool   // enough weight is up; below it the sorry server answers, if there is one
	Sorry  bool   // new connections are meant for the sorry server
	Reason string // why the quorum is lost
	Reals  []RealPlan
}

// RealPlan is what was decided about one real.
type RealPlan struct {
	Addr       netip.Addr
	Port       uint16
	Forward    lb.Forward
	Tunnel     string // see [lb.Real.TunnelName]
	Configured uint16 // weight of the configuration
	Weight     uint16 // weight while it is up: the configuration's or the operator's
	Override   bool   // an operator set the weight
	Drained    bool   // an operator drains it
	Checks     int    // number of its checks; 0 = taken for up
	Up         bool
	Unchecked  bool          // it is down only because a check has had no result yet
	Since      time.Time     // of the check that decides; zero without checks or results
	Took       time.Duration // of the slowest of its last checks
	Reason     string        // why it is down, or what is odd about its being up
	Flapping   bool
}

// Key is the identity of the real within its service.
func (rp RealPlan) Key() netip.AddrPort { return netip.AddrPortFrom(rp.Addr, rp.Port) }

// Plan compiles the state that the kernel should hold. It does no I/O and
// keeps nothing; equal inputs give equal outcomes. The outcome shares what did
// not change with the input: neither is to be written to.
func Plan(in Input) Planned {
	cfg := in.Config
	out := Planned{
		Services: make([]ServicePlan, 0, len(cfg.Services)),
		Memory: Memory{ // as large as the last one: a plan is made for every event
			Up:     make(map[string]Verdicts, len(in.Memory.Up)),
			Quorum: make(map[string]bool, len(in.Memory.Quorum)), Leases: assignLeases(cfg.VRRP, in.Memory.Leases),
		},
		Stale: in.Overrides.stale(cfg),
		State: lb.State{
			Timeouts:             cfg.Timeouts,
			SloppyTCP:            cfg.SloppyTCP,
			ExpireNodestConn:     cfg.ExpireNodestConn,
			ExpireQuiescentTempl: cfg.ExpireQuiescentTempl,
			Deny:                 cfg.Deny,
			Allow:                cfg.Allow,
			OuterSources:         cfg.OuterSources,
			Peers:                peersOf(cfg),
			Services:             make([]lb.Service, 0, len(cfg.Services)),
		},
	}
	n := 0
	for i := range cfg.Services { // by reference: there may be ten thousand
		n += len(cfg.Services[i].Reals)
	}
	reals := make([]RealPlan, n) // of all services, one behind the other
	for i := range cfg.Services {
		svc := &cfg.Services[i]
		n := len(svc.Reals)
		plan := planService(svc, &in, reals[:n:n])
		reals = reals[n:]
		out.Memory.Up[svc.Name] = in.Memory.Up[svc.Name].update(plan.Reals)
		if _, reached := in.Memory.Quorum[svc.Name]; reached || plan.Quorum {
			out.Memory.Quorum[svc.Name] = plan.Quorum
		}
		out.Services = append(out.Services, plan)
		out.State.Services = append(out.State.Services, compileService(svc, plan))
	}
	for _, inst := range cfg.VRRP {
		if in.Active[inst.Name] {
			out.Memory.Active = append(out.Memory.Active, inst.Name)
		}
	}
	slices.Sort(out.Memory.Active)
	out.State.VIPs = in.Memory.vips
	if in.Memory.config != cfg {
		out.State.VIPs = listVIPs(cfg, out.Memory.Leases)
	}
	out.State.VIPs = withRoles(out.State.VIPs, in.Active)
	out.Memory.config, out.Memory.vips = cfg, out.State.VIPs
	return out
}

// planService plans one service. dst gets the plans of its reals; it must be
// zeroed, with len(dst) == len(svc.Reals).
func planService(svc *config.Service, in *Input, dst []RealPlan) ServicePlan {
	plan := ServicePlan{Name: svc.Name, Reals: dst}
	verdicts, overrides := in.Memory.Up[svc.Name], in.Overrides.of(svc.Name)
	for i := range svc.Reals {
		rp := &plan.Reals[i]
		rp.planReal(svc, i, in, verdicts)
		overrides.apply(svc.Name, rp.Key(), rp)
		if rp.Up {
			plan.Weight += int(rp.Weight)
		}
	}
	plan.decideQuorum(svc, in.Memory)
	return plan
}

// decideQuorum decides as keepalived's update_quorum_state does: lost below quorum
// - hysteresis or at no weight at all, regained at quorum + hysteresis. The
// first time, quorum itself is enough: there is nothing to swing about yet.
func (p *ServicePlan) decideQuorum(svc *config.Service, mem Memory) {
	had, reached := mem.Quorum[svc.Name]
	threshold := svc.Quorum
	switch {
	case reached && had:
		threshold -= svc.Hysteresis
	case reached:
		threshold += svc.Hysteresis
	}
	p.Quorum = p.Weight > 0 && p.Weight >= threshold
	if !p.Quorum {
		p.Reason = fmt.Sprintf("weight %d up, quorum needs %d", p.Weight, max(threshold, 1))
		p.Sorry = svc.Sorry.IsValid()
	}
}

// planReal applies the checks: all must pass.
func (rp *RealPlan) planReal(svc *config.Service, i int, in *Input, verdicts Verdicts) {
	r := &svc.Reals[i]
	rp.Addr, rp.Port, rp.Configured, rp.Weight, rp.Up = r.Addr, r.Port, r.Weight, r.Weight, true
	rp.Forward, rp.Tunnel = r.Forward, r.TunnelName()
	if i >= len(svc.Checks) || len(svc.Checks[i]) == 0 {
		return
	}
	before, _ := verdicts.lookup(i, r.Key())
	for _, t := range targets(svc, i, in.ProbeVIP) {
		rp.Checks++
		rp.applyCheck(in.Health[t], before)
	}
}

// applyCheck takes one check's status into account. A check without a result yet
// (a new one, or one that a reload changed) leaves the real as it was, so
// that a reload takes nobody out; a real that was never up stays down.
func (rp *RealPlan) applyCheck(s health.Status, before bool) {
	rp.Flapping, rp.Took = rp.Flapping || s.Flapping, max(rp.Took, s.Took)
	switch {
	case !s.Known && !before && s.NotAsked:
		rp.markDown("not checked yet: "+s.Reason, s)
	case !s.Known && !before:
		rp.Unchecked = rp.Unchecked || rp.Up
		rp.markDown("not checked yet", s)
	case !s.Known:
		rp.Reason = "not checked yet by its new check"
	case !s.Up:
		rp.Unchecked = false
		rp.markDown(s.Reason, s)
	case s.Since.After(rp.Since) && rp.Up:
		rp.Since = s.Since
	}
	rp.applyWeight(s)
}

// applyWeight lets a check that passes set the weight, or add to it. A weight
// of 0 in the file stays: the operator has taken the real out.
func (rp *RealPlan) applyWeight(s health.Status) {
	if s.Weight == (health.Weight{}) || !s.Up || rp.Configured == 0 {
		return
	}
	weight := s.Weight.Value
	if !s.Weight.IsFixed {
		weight += int(rp.Weight)
	}
	rp.Weight = uint16(min(max(weight, 0), 65535))
}

// markDown takes the real down; the first check that fails gives the reason.
func (rp *RealPlan) markDown(reason string, s health.Status) {
	if !rp.Up {
		return
	}
	if reason == "" {
		reason = "check fails"
	}
	rp.Up, rp.Reason, rp.Since = false, reason, s.Since
}

// compileService turns the decisions into what the backend gets. A real that
// its checks took out is removed or quiesced as on_down says. A real that is
// quiesced by its weight stays: its connections end by themselves.
func compileService(svc *config.Service, plan ServicePlan) lb.Service {
	s := svc.Service
	if !slices.ContainsFunc(plan.Reals, func(r RealPlan) bool { return !r.Up || r.Weight != r.Configured }) && !plan.Sorry {
		return s
	}
	s.Reals = make([]lb.Real, 0, len(svc.Reals))
	for i, r := range svc.Reals {
		rp := plan.Reals[i]
		r.Weight = rp.Weight
		if !rp.Up || plan.Sorry && rp.Weight > 0 {
			if svc.RealOnDown(i) != config.Quiesce {
				r.Unchecked = rp.Unchecked
				s.Absent = append(s.Absent, r)
				continue
			}
			r.Weight = 0
		}
		s.Reals = append(s.Reals, r)
	}
	return s
}

// assignLeases gives every instance the number it had, new ones the lowest that
// is free.
func assignLeases(instances []vrrp.Instance, before map[string]uint32) map[string]uint32 {
	ids, used := map[string]uint32{}, map[uint32]bool{}
	for _, inst := range instances {
		if id, ok := before[inst.Name]; ok {
			ids[inst.Name], used[id] = id, true
		}
	}
	var next uint32
	for _, inst := range instances {
		if _, ok := ids[inst.Name]; ok {
			continue
		}
		for used[next] {
			next++
		}
		ids[inst.Name], used[next] = next, true
	}
	return ids
}
