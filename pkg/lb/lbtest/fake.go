package lbtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Fake is a backend in memory. It forwards what [Fake.Send] is given as the
// kernel would, with the schedulers rr, wrr and sh; every other scheduler
// behaves as wrr. It is safe for concurrent use, so that a test can send
// while a director applies.
type Fake struct {
	mu       sync.Mutex
	state    lb.State
	services map[string]*fakeService
	flows    map[flowKey]*fakeFlow
	leases   map[uint32]time.Time
	mac      map[netip.Addr]string // reasons why a real has no MAC
	verdicts map[string]uint64
	applyErr error
	applied  []lb.State
	closed   bool
	kept     bool
}

// NewFake is a backend that holds nothing yet.
func NewFake() *Fake {
	return &Fake{
		services: map[string]*fakeService{},
		flows:    map[flowKey]*fakeFlow{},
		leases:   map[uint32]time.Time{},
		mac:      map[netip.Addr]string{},
		verdicts: map[string]uint64{},
	}
}

var (
	_ Harness     = (*Fake)(nil)
	_ lb.Leaser   = (*Fake)(nil)
	_ lb.Switcher = (*Fake)(nil)
)

// Fail makes every Apply return err until it is called with nil.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applyErr = err
}

// Unresolve takes a real's MAC away, for that reason; an empty reason gives
// it back.
func (f *Fake) Unresolve(real netip.Addr, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mac[real] = reason
	for _, s := range f.services {
		s.changed()
	}
}

// Applied lists the states of all successful calls of Apply, oldest first.
func (f *Fake) Applied() []lb.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.applied)
}

// Closed reports whether Close was called, and with which keep.
func (f *Fake) Closed() (closed, keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed, f.kept
}

// Apply implements [lb.Backend].
func (f *Fake) Apply(ctx context.Context, s lb.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case f.closed:
		return errors.New("apply on a closed backend")
	case f.applyErr != nil:
		return f.applyErr
	}
	f.applied = append(f.applied, s)
	s = s.Clone()
	services := map[string]*fakeService{}
	for _, svc := range s.Services {
		fs := f.services[svc.Name]
		if fs == nil {
			fs = &fakeService{cw: 1, pos: -1, counts: map[netip.AddrPort]*lb.Counters{}}
		}
		fs.update(svc)
		services[svc.Name] = fs
	}
	f.services, f.state = services, s
	return nil
}

// Switch implements [lb.Switcher]; it fails when Apply would.
func (f *Fake) Switch(vips []lb.VIP) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.applyErr != nil:
		return f.applyErr
	case len(f.applied) == 0 || f.closed:
		return errors.New("roles: nothing was applied yet")
	}
	f.state.VIPs = slices.Clone(vips)
	return nil
}

// Renew implements [lb.Leaser].
func (f *Fake) Renew(id uint32, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases[id] = time.Now().Add(d)
	return nil
}

// LeaseLeft implements [lb.Leaser].
func (f *Fake) LeaseLeft(id uint32) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(0, time.Until(f.leases[id]))
}

// Damage implements [Harness]: the first service loses its reals.
func (f *Fake) Damage() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.services {
		s.svc.Reals = nil
		s.changed()
		return nil
	}
	return errors.New("nothing to damage")
}

// Observed implements [lb.Backend].
func (f *Fake) Observed() (lb.Observed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := lb.Observed{Backend: "fake", Mode: "memory", Detail: "no packet leaves this process"}
	for _, name := range f.names() {
		s := f.services[name]
		os := lb.ObservedService{Name: name, Mark: s.svc.Mark, Backend: "fake"}
		for _, r := range s.svc.Reals {
			or := lb.ObservedReal{Addr: r.Addr, Port: r.Port, Weight: r.Weight, Reason: f.mac[r.Addr], Device: "fake0"}
			or.Usable = or.Reason == "" && r.Weight > 0
			os.Reals = append(os.Reals, or)
		}
		o.Services = append(o.Services, os)
	}
	return o, nil
}

func (f *Fake) names() []string {
	var names []string
	for _, s := range f.state.Services {
		names = append(names, s.Name)
	}
	return names
}

// Stats implements [lb.Backend].
func (f *Fake) Stats() (lb.Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := lb.Stats{
		Flows:    lb.TableStats{Capacity: 1 << 20, Evicted: map[string]uint64{}},
		Template: lb.TableStats{Capacity: 1 << 16, Evicted: map[string]uint64{}},
	}
	for _, name := range f.names() {
		s := f.services[name]
		ss := lb.ServiceStats{Name: name, Counters: s.total}
		for _, r := range s.svc.Reals {
			ss.Reals = append(ss.Reals, f.realStats(s, r))
		}
		for _, r := range s.svc.Absent {
			ss.Absent = append(ss.Absent, f.realStats(s, r))
		}
		st.Services = append(st.Services, ss)
	}
	for _, fl := range f.flows {
		if fl.template {
			st.Template.Used++
		} else {
			st.Flows.Used++
		}
	}
	for _, v := range fakeVerdicts {
		st.Verdicts = append(st.Verdicts, lb.Verdict{Name: v.name, Meaning: v.meaning, Count: f.verdicts[v.name]})
	}
	return st, nil
}

func (f *Fake) realStats(s *fakeService, r lb.Real) lb.RealStats {
	rs := lb.RealStats{Addr: r.Addr, Port: r.Port}
	if c := s.counts[r.Key()]; c != nil {
		rs.Counters = *c
	}
	for k, fl := range f.flows {
		switch {
		case k.service != s.svc.Name || fl.real != r.Key() || time.Now().After(fl.expires):
		case fl.template:
			rs.Persist++
		case fl.state == "SYN_RECV" || fl.state == "ESTABLISHED":
			rs.Active++
		default:
			rs.Inactive++
		}
	}
	return rs
}

// Connections implements [lb.Backend].
func (f *Fake) Connections(limit int) ([]lb.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []lb.Connection
	for k, fl := range f.flows {
		if limit > 0 && len(all) == limit {
			break
		}
		left := time.Until(fl.expires)
		if left <= 0 {
			continue
		}
		all = append(all, lb.Connection{
			Service: k.service, Proto: k.proto, Expires: left, State: fl.state,
			Client: k.src, Virtual: fl.virtual, Real: fl.real, Template: fl.template,
		})
	}
	return all, nil
}

// Bound implements [lb.Binder].
func (f *Fake) Bound(service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int, err error) {
	entries, err := f.Connections(0)
	clients, n = lb.Bound(entries, service, real, limit)
	return clients, n, err
}

// Unbind implements [lb.Binder].
func (f *Fake) Unbind(service string, real netip.AddrPort) (ended int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, fl := range f.flows {
		if fl.template && k.service == service && fl.real == real {
			delete(f.flows, k)
			ended++
		}
	}
	return ended, nil
}

// Close implements [lb.Backend].
func (f *Fake) Close(keep bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed, f.kept = true, keep
	if !keep {
		f.services, f.flows, f.state = map[string]*fakeService{}, map[flowKey]*fakeFlow{}, lb.State{}
	}
	return nil
}

// Explain implements [lb.Backend].
func (f *Fake) Explain(p lb.Packet) (lb.Explanation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return lb.Explanation{}, errors.New("explain on a closed backend")
	}
	s, verdict := f.admit(p)
	e := lb.Explanation{Verdict: verdict, Steps: []string{fmt.Sprintf("listener for %s: %s", p.Dst, verdict)}}
	if s == nil {
		return e, nil
	}
	e.Service = s.svc.Name
	if fl := f.flow(s, p); fl != nil {
		e.Verdict, e.Real = "forwarded", fl.real.Addr().String()
		e.Steps = append(e.Steps, "flow: "+fl.state)
		return e, nil
	}
	trial := *s // a copy: the rotation must not move
	if r, ok := trial.schedule(p, f.mac); ok {
		e.Verdict, e.Real = "forwarded", r.Addr.String()
	} else {
		e.Verdict = "no_real"
	}
	e.Steps = append(e.Steps, "scheduler "+string(s.svc.Scheduler)+": "+e.Verdict)
	return e, nil
}
