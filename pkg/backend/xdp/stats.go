package xdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Observed tells what the tables hold.
func (b *Backend) Observed() (lb.Observed, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := lb.Observed{Backend: "xdp"}
	var detail []string
	for _, a := range b.dp.Attachments {
		o.Mode = string(a.Mode)
		d := fmt.Sprintf("%s: %s", strings.Join(a.Names(), ", "), a.Mode)
		if len(a.VLANs) > 0 {
			d += " on " + a.Name
		}
		if a.Why != "" {
			d += " (native refused: " + a.Why + ")"
		}
		switch a.Proof {
		case loader.NotProven:
			d += " (not proven: no neighbour answers echoes)"
		case loader.Disproven:
			d += " (loses frames: no echo that it sent was answered)"
		}
		detail = append(detail, d)
	}
	o.Detail = strings.Join(detail, ", ")
	for _, conf := range b.state.Services {
		s := b.services[conf.Name]
		os := lb.ObservedService{Name: conf.Name, Mark: conf.Mark, Backend: "xdp"}
		if s.ring != nil && s.ring.Scaled {
			os.Reason = "weights scaled down to fit the ring"
		}
		for _, r := range s.listed() {
			or := lb.ObservedReal{
				Addr: r.conf.Addr, Port: r.conf.Port, Weight: r.conf.Weight,
				Usable: r.usable() && !r.stranded, Device: r.near.Device,
			}
			switch {
			case r.near.Local:
				or.MAC = "local"
			case r.near.MAC != ([6]byte{}):
				or.MAC = macString(r.near.MAC)
			}
			switch {
			case r.near.Err != "":
				or.Reason = r.near.Err
			case r.conf.Weight == 0:
				or.Reason = "weight 0: keeps its connections, gets no new ones"
			case b.isOverloaded(r):
				or.Usable, or.Reason = false, fmt.Sprintf("overloaded: upper_threshold %d", r.conf.Upper)
			}
			os.Reals = append(os.Reals, or)
		}
		o.Services = append(o.Services, os)
	}
	return o, nil
}

// listed are the reals that a listing shows: the configured ones, in order,
// and the sorry server while it serves.
func (s *service) listed() []*real {
	var rs []*real
	for _, c := range s.conf.Reals {
		rs = append(rs, s.reals[c.Key()])
	}
	if s.entry.RingSize == 0 && s.entry.Sorry != bpf.NoSlot {
		r := s.reals[netip.AddrPortFrom(s.conf.Sorry, 0)]
		if r != nil && !slices.Contains(rs, r) {
			rs = append(rs, r)
		}
	}
	return rs
}

func macString(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Stats reads the counters.
func (b *Backend) Stats() (lb.Stats, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var st lb.Stats
	var err error
	if st.Services, err = b.serviceStats(); err != nil {
		return st, err
	}
	st.Verdicts = b.verdicts()
	return st, b.tables(&st)
}

func (b *Backend) serviceStats() ([]lb.ServiceStats, error) {
	var out []lb.ServiceStats
	persist, _ := b.countTemplates()
	for _, conf := range b.state.Services {
		s := b.services[conf.Name]
		ss := lb.ServiceStats{Name: conf.Name, Counters: b.retired(s)}
		all := map[*real]lb.Counters{}
		for _, r := range s.reals {
			c, err := b.counters(r.slot)
			if err != nil {
				return nil, err
			}
			all[r] = c
			add(&ss.Counters, c)
		}
		for _, r := range s.listed() {
			ss.Reals = append(ss.Reals, b.realStats(r, all[r], persist[r.slot]))
		}
		for _, down := range conf.Absent {
			if r := s.reals[down.Key()]; r == nil { // nothing is left of it
				ss.Absent = append(ss.Absent, lb.RealStats{Addr: down.Addr, Port: down.Port})
			} else if !r.isThere {
				ss.Absent = append(ss.Absent, b.realStats(r, all[r], persist[r.slot]))
			}
		}
		ss.Rows, ss.UnsettledRows = b.countRows(s)
		out = append(out, ss)
	}
	return out, nil
}

func (b *Backend) realStats(r *real, c lb.Counters, persist uint32) lb.RealStats {
	active, inactive := b.liveConnections(r.slot)
	return lb.RealStats{
		Addr: r.conf.Addr, Port: r.conf.Port, Counters: c, Persist: persist,
		Active: uint32(active), Inactive: uint32(inactive),
	}
}

func add(to *lb.Counters, c lb.Counters) {
	to.Conns += c.Conns
	to.InPkts += c.InPkts
	to.InBytes += c.InBytes
	to.OutPkts += c.OutPkts
	to.OutBytes += c.OutBytes
}

func (b *Backend) counters(slot uint32) (lb.Counters, error) {
	var per []bpf.Counter
	if err := b.dp.Maps.Counters.Lookup(slot, &per); err != nil {
		return lb.Counters{}, fmt.Errorf("counters: %w", err)
	}
	var c lb.Counters
	for _, p := range per {
		add(&c, lb.Counters{Conns: p.Connections, InPkts: p.Packets, InBytes: p.Bytes})
	}
	err := b.countReplies(slot, &c)
	return c, err
}

func (b *Backend) clearCounters(slot uint32) error {
	if err := b.fail("counters"); err != nil {
		return err
	}
	per := make([]bpf.Counter, ebpf.MustPossibleCPU())
	if err := b.dp.Maps.Counters.Put(slot, per); err != nil {
		return fmt.Errorf("clear counters of slot %d: %w", slot, err)
	}
	return b.clearReplies(slot)
}

// countTemplates counts the templates that have not expired, by slot and
// together.
func (b *Backend) countTemplates() (bySlot map[uint32]uint32, all uint64) {
	bySlot = map[uint32]uint32{}
	if !b.persistent {
		return bySlot, 0
	}
	now := b.now()
	b.eachTemplate(func(_ entry, t bpf.TemplateValue) bool {
		if t.Left(now) >= 0 {
			bySlot[t.Real()]++
			all++
		}
		return true
	})
	return bySlot, all
}

func (b *Backend) verdicts() []lb.Verdict {
	var out []lb.Verdict
	for v := range bpf.Verdicts {
		out = append(out, lb.Verdict{Name: v.String(), Meaning: v.Meaning(), Count: b.dp.CountOf(v)})
	}
	return out
}

// sentBack are the verdicts of frames that leave by the interface that they came
// in by (XDP_TX).
var sentBack = []bpf.Verdict{bpf.Forwarded, bpf.ICMPForwarded, bpf.AnsweredUnreachable, bpf.AnsweredTTL, bpf.AnsweredTooBig}

// SentBack is how many frames were sent back by the interface that they came in
// by, and some more: an ICMP error that left by another one counts.
func (b *Backend) SentBack() (n uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range sentBack {
		n += b.dp.CountOf(v)
	}
	return n, nil
}

// tally sums a count over the CPUs.
func tally(m *ebpf.Map, i uint32) (uint64, error) {
	var per []bpf.Tally
	if err := m.Lookup(i, &per); err != nil {
		return 0, fmt.Errorf("%s: %w", m, err)
	}
	n := uint64(0)
	for _, t := range per {
		n += t.Count
	}
	return n, nil
}

func (b *Backend) tables(st *lb.Stats) error {
	evicted := func(kinds map[string]bpf.Eviction) (map[string]uint64, error) {
		out := map[string]uint64{}
		for name, k := range kinds {
			n, err := tally(b.dp.Maps.Evictions, uint32(k))
			if err != nil {
				return nil, err
			}
			out[name] = n
		}
		return out, nil
	}
	flows, templates := b.flowTables(), b.templateTables()
	st.Flows.Capacity, st.Template.Capacity = flows[0].stated(), templates[0].stated()
	if b.ipv6 {
		st.Flows.Capacity += flows[1].stated()
		st.Template.Capacity += uint64(templates[1].sets())
	}
	_, st.Template.Used = b.countTemplates()
	for i := range b.slots.next {
		active, inactive := b.liveConnections(i)
		st.Flows.Used += uint64(active) + uint64(inactive)
	}
	var err error
	st.Flows.Evicted, err = evicted(map[string]bpf.Eviction{
		"expired": bpf.EvictedExpired, "half_open": bpf.EvictedHalfOpen,
		"unproven": bpf.EvictedUnproven, "established": bpf.EvictedEstablished,
	})
	if err != nil {
		return err
	}
	st.Template.Evicted, err = evicted(map[string]bpf.Eviction{
		"unassured": bpf.EvictedTemplate, "assured": bpf.EvictedAssured,
	})
	return err
}
