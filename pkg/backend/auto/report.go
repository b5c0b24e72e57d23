package auto

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/lb"
)

var _ lb.Inheritor = (*Backend)(nil)

// Inherited implements [lb.Inheritor]: what XDP was left. What the kernel's
// IPVS holds is known by notes alone.
func (b *Backend) Inherited() []lb.ObservedService {
	if i, ok := b.xdp.(lb.Inheritor); ok {
		return i.Inherited()
	}
	return nil
}

// InheritedVIPs implements [lb.Inheritor], for XDP alone as well.
func (b *Backend) InheritedVIPs() []netip.Addr {
	if i, ok := b.xdp.(lb.Inheritor); ok {
		return i.InheritedVIPs()
	}
	return nil
}

// Observed puts together what both hold, each service from its place.
func (b *Backend) Observed() (lb.Observed, error) {
	x, i, err := b.observe()
	if err != nil {
		return lb.Observed{}, err
	}
	all := lb.Observed{Backend: x.Backend, Mode: x.Mode, Detail: x.Detail}
	if b.ipvs != nil && len(b.onIPVS) > 0 || b.xdp == nil {
		all.Backend, all.Mode = join("+", x.Backend, i.Backend), join("+", x.Mode, i.Mode)
		all.Detail = join(", ", x.Detail, i.Detail)
	}
	name := func(o lb.ObservedService) string { return o.Name }
	onXDP, onIPVS := named(x.Services, name), named(i.Services, name)
	for _, svc := range b.state.Services {
		why, ipvs := b.why[svc.Name]
		from := onXDP
		if ipvs {
			from = onIPVS
		}
		o, ok := from[svc.Name]
		if !ok {
			continue
		}
		if ipvs {
			o.Reason = why
		}
		all.Services = append(all.Services, o)
	}
	return all, nil
}

// named makes a list a map: there may be ten thousand services.
func named[T any](list []T, name func(T) string) map[string]T {
	m := make(map[string]T, len(list))
	for _, v := range list {
		m[name(v)] = v
	}
	return m
}

func (b *Backend) observe() (xdp, ipvs lb.Observed, err error) {
	if b.xdp != nil {
		if xdp, err = b.xdp.Observed(); err != nil {
			return xdp, ipvs, err
		}
	}
	if b.ipvs != nil {
		ipvs, err = b.ipvs.Observed()
	}
	return xdp, ipvs, err
}

func join(sep string, words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), sep)
}

// Stats are the counters of each service at its place. The connections that
// it still has at the place it left are in the numbers of its reals.
// Verdicts of one name are added up; a packet that XDP passed and IPVS took
// has one of each.
func (b *Backend) Stats() (lb.Stats, error) {
	var x, i, all lb.Stats
	var err error
	if b.xdp != nil {
		if x, err = b.xdp.Stats(); err != nil {
			return all, err
		}
	}
	if b.ipvs != nil {
		if i, err = b.ipvs.Stats(); err != nil {
			return all, err
		}
	}
	name := func(s lb.ServiceStats) string { return s.Name }
	onXDP, onIPVS := named(x.Services, name), named(i.Services, name)
	for _, svc := range b.state.Services {
		here, left := onXDP, onIPVS
		if _, ipvs := b.why[svc.Name]; ipvs {
			here, left = left, here
		}
		s, ok := here[svc.Name]
		if !ok {
			continue
		}
		if old, was := left[svc.Name]; was {
			s.Reals = withConnections(s.Reals, old.Reals)
			s.Absent = withConnections(s.Absent, old.Absent)
		}
		all.Services = append(all.Services, s)
	}
	all.Verdicts = sum(x.Verdicts, i.Verdicts)
	all.Flows, all.Template = x.Flows, x.Template
	all.Flows.Used += i.Flows.Used
	all.Template.Used += i.Template.Used
	return all, nil
}

// withConnections adds the connections of the same servers elsewhere.
func withConnections(reals, left []lb.RealStats) []lb.RealStats {
	reals = slices.Clone(reals)
	for _, l := range left {
		if i := slices.IndexFunc(reals, func(r lb.RealStats) bool { return r.Addr == l.Addr }); i >= 0 {
			reals[i].Active += l.Active
			reals[i].Inactive += l.Inactive
			reals[i].Persist += l.Persist
		}
	}
	return reals
}

func sum(a, b []lb.Verdict) []lb.Verdict {
	all := slices.Clone(a)
	for _, v := range b {
		if i := slices.IndexFunc(all, func(w lb.Verdict) bool { return w.Name == v.Name }); i >= 0 {
			all[i].Count += v.Count
		} else {
			all = append(all, v)
		}
	}
	return all
}

// Connections lists XDP's, then IPVS's.
func (b *Backend) Connections(limit int) ([]lb.Connection, error) {
	var all []lb.Connection
	for _, part := range []lb.Backend{b.xdp, b.ipvs} {
		if part == nil || limit > 0 && len(all) >= limit {
			continue
		}
		list, err := part.Connections(max(limit-len(all), 0))
		if err != nil {
			return all, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// Explain asks XDP first, as the packet does, and IPVS about what XDP passes
// as not its own.
func (b *Backend) Explain(p lb.Packet) (lb.Explanation, error) {
	var e lb.Explanation
	svc := b.listener(p.Dst, p.Proto)
	why, ipvs := b.why[svc]
	if b.xdp != nil {
		var err error
		if e, err = b.xdp.Explain(p); err != nil {
			return e, err
		}
		if b.ipvs == nil || e.Service != "" || !ipvs || stopped(e.Verdict) {
			return e, nil
		}
	}
	if b.ipvs == nil {
		return e, errNothing
	}
	if svc != "" {
		e.Steps = append(e.Steps, "the kernel's IPVS has the service "+svc+": "+why)
	}
	i, err := b.ipvs.Explain(p)
	i.Steps = slices.Concat(e.Steps, i.Steps)
	return i, err
}

var errNothing = errors.New("no service was applied yet")

// stopped reports whether a packet that belongs to no service of XDP ended
// there all the same.
func stopped(verdict string) bool { return verdict == "lease_over" || verdict == "standby" }

// listener finds the service whose narrowest listener takes the address, ""
// if none does.
func (b *Backend) listener(dst netip.AddrPort, proto lb.Protocol) string {
	name, width := "", 1<<17
	for _, svc := range b.state.Services {
		for _, l := range svc.Listeners {
			if l.Addr == dst.Addr() && l.Proto == proto && l.Contains(dst.Port()) && l.Width() < width {
				name, width = svc.Name, l.Width()
			}
		}
	}
	return name
}
