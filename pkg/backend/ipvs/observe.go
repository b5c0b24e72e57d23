package ipvs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/cloudflare/ipvs"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Observed lists the kernel's services and reals, as far as they are ours:
// reals in the order of the file, with whatever else somebody added to our
// services, and the sorry server while it stands in. A service whose VIPs are
// standby is not in the kernel, and so not in the list.
func (b *Backend) Observed() (lb.Observed, error) {
	info, err := b.kernel.Info()
	if err != nil {
		return lb.Observed{}, fmt.Errorf("version of IPVS: %w", err)
	}
	v := info.Version
	o := lb.Observed{
		Backend: "ipvs", Mode: fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]),
		Detail: fmt.Sprintf("kernel IPVS, connection table with %d buckets", info.ConnectionTableSize),
	}
	have, err := b.have()
	if err != nil {
		return o, err
	}
	for _, svc := range b.plan.state.Services {
		ports := portsOf(svc)
		os := lb.ObservedService{Name: svc.Name, Mark: b.plan.mark(svc), Backend: "ipvs"}
		found := false
		for _, virt := range b.plan.of(svc.Name) {
			if _, ok := have[keyOf(virt.svc)]; !ok {
				continue
			}
			found = true
			list, err := listReals(b.kernel, virt.svc)
			if err != nil {
				return o, err
			}
			for _, d := range slices.Backward(list) {
				os.Reals = append(os.Reals, observedReal(ports.of(d)))
			}
		}
		if found {
			o.Services = append(o.Services, os)
		}
	}
	return o, nil
}

// ports are those that reals have in the state, 0 for the service's own, by what the
// kernel gives them.
type ports map[netip.AddrPort]uint16

func portsOf(svc lb.Service) ports {
	p := make(ports, len(svc.Reals)+1)
	for _, r := range append(slices.Concat(svc.Absent, svc.Reals), lb.Real{Addr: svc.Sorry, Port: svc.SorryPort, Forward: svc.SorryForward}) {
		k := netip.AddrPortFrom(r.Addr, realPort(r, svc))
		if _, ok := p[k]; !ok {
			p[k] = r.Port
		}
	}
	return p
}

// of is a real of the kernel's as the state knows it. What somebody else has added
// keeps the kernel's port.
func (p ports) of(d ipvs.DestinationExtended) ipvs.DestinationExtended {
	if port, ok := p[netipPort(d.Destination)]; ok {
		d.Port = port
	}
	return d
}

// of lists what the kernel should hold for one service.
func (p plan) of(name string) []virtual {
	var vs []virtual
	for _, v := range p.virtuals {
		if v.name == name {
			vs = append(vs, v)
		}
	}
	return vs
}

func observedReal(d ipvs.DestinationExtended) lb.ObservedReal {
	r := lb.ObservedReal{Addr: d.Address, Port: d.Port, Weight: uint16(min(d.Weight, 65535)), Usable: true}
	switch conns := d.ActiveConnections + d.InactiveConnections; {
	case d.Weight == 0:
		r.Usable, r.Reason = false, "weight 0"
	case d.UpperThreshold != 0 && conns >= d.UpperThreshold:
		r.Usable, r.Reason = false, fmt.Sprintf("overloaded: %d connections, upper_threshold %d", conns, d.UpperThreshold)
	}
	return r
}

// Stats reads the kernel's 64-bit counters, which it adds up every two seconds
// (ip_vs_est.c); the numbers of connections are of this moment. The table of
// connections has no bound, so its capacity is 0 and nothing is ever evicted.
func (b *Backend) Stats() (lb.Stats, error) {
	var st lb.Stats
	list, err := listServices(b.kernel)
	if err != nil {
		return st, err
	}
	have := map[key]ipvs.ServiceExtended{}
	for _, s := range list {
		have[keyOf(s.Service)] = s
	}
	for _, svc := range b.plan.state.Services {
		ports, ss := portsOf(svc), lb.ServiceStats{Name: svc.Name}
		for _, v := range b.plan.of(svc.Name) {
			s, ok := have[keyOf(v.svc)]
			if !ok {
				continue
			}
			ss.Counters = sum(ss.Counters, counters(s.Stats64))
			reals, err := listReals(b.kernel, v.svc)
			if err != nil {
				return st, err
			}
			for _, d := range slices.Backward(reals) {
				ss.Reals = append(ss.Reals, realStats(ports.of(d)))
				st.Flows.Used += uint64(d.ActiveConnections) + uint64(d.InactiveConnections)
				st.Template.Used += uint64(d.PersistentConnections)
			}
		}
		st.Services = append(st.Services, ss)
	}
	denied, err := b.firewall.Denied()
	if err != nil {
		return st, fmt.Errorf("count of denied packets: %w", err)
	}
	st.Verdicts = verdicts(st.Services, denied)
	return st, nil
}

func realStats(d ipvs.DestinationExtended) lb.RealStats {
	return lb.RealStats{
		Addr: d.Address, Port: d.Port, Counters: counters(d.Stats64),
		Active: d.ActiveConnections, Inactive: d.InactiveConnections, Persist: d.PersistentConnections,
	}
}

func counters(s ipvs.Stats) lb.Counters {
	return lb.Counters{
		Conns: s.Connections, InPkts: s.IncomingPackets, InBytes: s.IncomingBytes,
		OutPkts: s.OutgoingPackets, OutBytes: s.OutgoingBytes,
	}
}

func sum(a, b lb.Counters) lb.Counters {
	return lb.Counters{
		Conns: a.Conns + b.Conns, InPkts: a.InPkts + b.InPkts, InBytes: a.InBytes + b.InBytes,
		OutPkts: a.OutPkts + b.OutPkts, OutBytes: a.OutBytes + b.OutBytes,
	}
}

// Verdicts, by the names that the XDP packet path has for the same things.
// IPVS counts but the first two; the others are said by [Backend.Explain].
const (
	forwarded  = "forwarded"
	denied     = "denied"
	notOurs    = "not_ours"
	noListener = "no_listener"
	standby    = "standby"
	noFlow     = "no_flow"
	answered   = "answered_unreachable"
)

func verdicts(services []lb.ServiceStats, dropped uint64) []lb.Verdict {
	var pkts uint64
	for _, s := range services {
		pkts += s.InPkts
	}
	return []lb.Verdict{
		{Name: forwarded, Meaning: "sent to a real server, as IPVS counts", Count: pkts},
		{Name: denied, Meaning: "dropped by a deny or allow list (nftables)", Count: dropped},
	}
}

// Connections reads /proc/net/ip_vs_conn. Entries of services that are not
// ours are left out.
func (b *Backend) Connections(limit int) ([]lb.Connection, error) {
	f, err := b.conns()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the module is gone, and its connections with it
	}
	if err != nil {
		return nil, fmt.Errorf("list of connections: %w", err)
	}
	defer f.Close()
	var all []lb.Connection
	err = parseConnections(f, func(c lb.Connection) bool {
		if c.Service = b.serviceOf(c); c.Service != "" {
			all = append(all, c)
		}
		return limit <= 0 || len(all) < limit
	})
	return all, err
}

// Bound implements [lb.Binder].
func (b *Backend) Bound(service string, real netip.AddrPort, limit int) (clients []netip.Prefix, n int, err error) {
	entries, err := b.Connections(0)
	clients, n = lb.Bound(entries, service, real, limit)
	return clients, n, err
}

// Unbind implements [lb.Binder]: the kernel ends templates by their timeout, or
// all of those that lead to a real of weight 0 (net.ipv4.vs.expire_quiescent_template).
func (b *Backend) Unbind(string, netip.AddrPort) (ended int, err error) {
	return 0, fmt.Errorf("the kernel's IPVS cannot end single templates (expire_quiescent_template: true ends those of drained reals): %w", errors.ErrUnsupported)
}

// serviceOf finds the service that a connection belongs to: the template of a
// mark by the mark, all else by the narrowest listener.
func (b *Backend) serviceOf(c lb.Connection) string {
	if c.Proto == 0 && c.Template {
		for _, v := range b.plan.virtuals {
			if v.svc.FWMark != 0 && v.svc.FWMark == templateMark(c) {
				return v.name
			}
		}
		return ""
	}
	best, width := "", 0
	for _, svc := range b.plan.state.Services {
		for _, l := range svc.Listeners {
			// Port 0 is that of a template for every port.
			if l.Addr == c.Virtual.Addr() && l.Proto == c.Proto && l.Contains(c.Virtual.Port()) && (best == "" || l.Width() < width) {
				best, width = svc.Name, l.Width()
			}
		}
	}
	return best
}

// templateMark reads the mark that the kernel keeps in place of the virtual
// address, in its first four bytes: 0.0.0.10 is mark 10, for IPv6 0:a:: (ip_vs_sched_persist).
func templateMark(c lb.Connection) uint32 {
	if !c.Virtual.IsValid() {
		return 0
	}
	return binary.BigEndian.Uint32(c.Virtual.Addr().AsSlice())
}

// Explain follows a packet through what the kernel holds. It does not
// foretell what a scheduler with a memory of its own will pick: it names the
// candidates.
func (b *Backend) Explain(p lb.Packet) (lb.Explanation, error) {
	var e lb.Explanation
	say := func(format string, args ...any) { e.Steps = append(e.Steps, fmt.Sprintf(format, args...)) }
	svc, ok := b.find(p)
	if !ok {
		e.Verdict = b.unserved(p.Dst.Addr())
		say("listener for %s/%s: none (%s)", p.Dst, p.Proto, e.Verdict)
		return e, nil
	}
	e.Service = svc.Name
	if contains(union(deniedRanges(b.plan.state.Deny, b.plan.state.Allow), deniedRanges(svc.Deny, svc.Allow)), p.Src.Addr()) {
		say("nftables: %s is on a deny list, or not on the allow list", p.Src.Addr())
		e.Verdict = denied
		return e, nil
	}
	if m := b.plan.mark(svc); m != 0 {
		say("nftables: %s/%s gets mark %d", p.Dst, p.Proto, m)
	}
	c, found, err := b.connection(p)
	if err != nil {
		return e, err
	}
	if found {
		say("connection: %s, %s left, to %s", c.State, c.Expires, c.Real)
		e.Verdict, e.Real = forwarded, c.Real.Addr().String()
		return e, nil
	}
	say("connection: none")
	if p.Proto == lb.TCP && !strings.Contains(cmp.Or(p.Flags, "S"), "S") && !b.plan.state.SloppyTCP {
		say("no SYN: not scheduled, the director's own stack resets it")
		e.Verdict = noFlow
		return e, nil
	}
	return b.explainSchedule(e, svc)
}

// explainSchedule lists whom the scheduler can choose.
func (b *Backend) explainSchedule(e lb.Explanation, svc lb.Service) (lb.Explanation, error) {
	var usable []string
	for _, v := range b.plan.of(svc.Name) {
		list, err := listReals(b.kernel, v.svc)
		if err != nil {
			return e, err
		}
		for _, d := range slices.Backward(list) {
			r := observedReal(d)
			if r.Usable {
				usable = append(usable, r.Addr.String())
			}
			e.Steps = append(e.Steps, fmt.Sprintf("real %s: weight %d %s", r.Addr, r.Weight, r.Reason))
		}
	}
	switch len(usable) {
	case 0:
		e.Verdict = answered
	case 1:
		e.Verdict, e.Real = forwarded, usable[0]
	default:
		e.Verdict = forwarded
	}
	e.Steps = append(e.Steps, fmt.Sprintf("scheduler %s: one of %d reals %v", svc.Scheduler, len(usable), usable))
	return e, nil
}

// unserved says why no service of the kernel takes packets for an address.
func (b *Backend) unserved(vip netip.Addr) string {
	switch {
	case b.plan.state.StandbyVIPs()[vip]:
		return standby
	case b.plan.state.HasVIP(vip):
		return noListener
	}
	return notOurs
}

// find is the service whose listener takes p, standby VIPs aside.
func (b *Backend) find(p lb.Packet) (lb.Service, bool) {
	for _, sp := range spans(b.plan.state, func(lb.Service) uint32 { return 0 }) {
		if sp.addr == p.Dst.Addr() && sp.proto == p.Proto && sp.first <= p.Dst.Port() && p.Dst.Port() <= sp.last {
			return b.plan.state.Service(sp.service)
		}
	}
	return lb.Service{}, false
}

// connection finds the connection that p belongs to.
func (b *Backend) connection(p lb.Packet) (found lb.Connection, ok bool, err error) {
	f, err := b.conns()
	if err != nil {
		return found, false, fmt.Errorf("list of connections: %w", err)
	}
	defer f.Close()
	err = parseConnections(f, func(c lb.Connection) bool {
		ok = c.Proto == p.Proto && c.Client == p.Src && c.Virtual == p.Dst
		found = c
		return !ok
	})
	return found, ok, err
}
