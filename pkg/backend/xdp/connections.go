package xdp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// stateNames are the kernel's (ip_vs_proto_tcp.c, tcp_state_name_table).
var stateNames = [bpf.States]string{
	"NONE", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "TIME_WAIT", "CLOSE", "UDP", "NONE", "NONE",
	bpf.StateSynSent: "SYN_SENT", bpf.StateProvenEstablished: "ESTABLISHED", bpf.StateProvenFinWait: "FIN_WAIT",
	bpf.StateCloseWait: "CLOSE_WAIT", bpf.StateLastAck: "LAST_ACK", bpf.StateProvenUDP: "UDP", bpf.StateSynAck: "SYNACK",
}

// Connections lists flows, then templates.
func (b *Backend) Connections(limit int) ([]lb.Connection, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []lb.Connection
	now := b.now()
	full := func() bool { return limit > 0 && len(out) >= limit }
	b.eachFlow(func(e entry, v bpf.FlowValue) bool {
		if !b.expired(v, now) && !full() {
			c := b.connection(e, v, now)
			c.Synced = b.isSynced(false, e, uint64(v))
			out = append(out, c)
		}
		return !full()
	})
	b.eachTemplate(func(e entry, t bpf.TemplateValue) bool {
		if c, ok := b.templateConnection(e, t, now); ok && !full() {
			c.Synced = b.isSynced(true, e, uint64(t))
			out = append(out, c)
		}
		return !full()
	})
	return out, nil
}

// eachFlow visits the live flows until visit returns false.
func (b *Backend) eachFlow(visit func(entry, bpf.FlowValue) bool) {
	for _, t := range b.flowTables() {
		for set := range t.sets() {
			if t.isEmpty(set) {
				continue
			}
			for w := range bpf.Ways {
				e := t.at(set, w)
				if v := bpf.FlowValue(load64(e.value)); v.IsLive() && !visit(e, v) {
					return
				}
			}
		}
	}
}

func (b *Backend) connection(at entry, v bpf.FlowValue, now uint64) lb.Connection {
	k := bpf.FlowKey(at.key)
	e := b.numbers.who[k.VIP()]
	left := int64(b.dp.Settings.Timeout[v.Code()]) - int64(age(v, now))
	c := lb.Connection{
		Proto: e.proto, Expires: shown(left), State: stateNames[v.State()],
		Client:  netip.AddrPortFrom(at.client(), k.ClientPort()),
		Virtual: netip.AddrPortFrom(e.vip, v.Port()),
	}
	raw := &b.dp.Reals[v.Real()]
	c.Real = netip.AddrPortFrom(b.addressOf(v.Real()), b.portOf(v.Real(), v.Port()))
	if s := b.byIndex[raw.Service%bpf.Services]; s != nil {
		c.Service = s.conf.Name
	}
	return c
}

func (b *Backend) templateConnection(e entry, t bpf.TemplateValue, now uint64) (lb.Connection, bool) {
	raw := &b.dp.Reals[t.Real()]
	s := b.byIndex[raw.Service%bpf.Services]
	if s == nil || s.cookie != bpf.TemplateKey(e.key).Service() || t.Left(now) < 0 {
		return lb.Connection{}, false
	}
	c := lb.Connection{
		Service: s.conf.Name, Template: true, State: "NONE", Expires: shown(int64(t.Left(now))),
		Client: netip.AddrPortFrom(e.client(), 0),
		Real:   netip.AddrPortFrom(b.addressOf(t.Real()), 0),
	}
	if t.IsAssured() {
		c.State = "ASSURED"
	}
	if mark, ok := markOf(s); ok {
		c.Virtual = netip.AddrPortFrom(addressOfMark(mark, e.table.isIPv6()), 0)
		return c, true
	}
	port := uint16(0)
	switch {
	case len(s.conf.Listeners) > 0:
		l := s.conf.Listeners[0]
		c.Proto, port = l.Proto, l.First
		c.Virtual = netip.AddrPortFrom(l.Addr, port)
	case len(s.listened) > 0:
		c.Proto, c.Virtual = s.listened[0].proto, netip.AddrPortFrom(s.listened[0].vip, 0)
	default: // a predecessor's, removed since: nobody knows where it listened
		return c, false
	}
	c.Real = netip.AddrPortFrom(c.Real.Addr(), b.portOf(t.Real(), port))
	return c, true
}

// addressOfMark is the address that stands for a mark in a listing: the mark in
// its first four bytes (ip_vs_sched_persist).
func addressOfMark(mark uint32, isIPv6 bool) netip.Addr {
	var a [16]byte
	binary.BigEndian.PutUint32(a[:], mark)
	if isIPv6 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[:]))
}

// markOf is the number under which a service is listed, if it is listed under
// one. Of a service that a predecessor removed only the mark is known.
func markOf(s *service) (uint32, bool) {
	return s.conf.Mark, s.conf.ByMark() && (s.conf.Mark != 0 || s.isThere || len(s.conf.Listeners) > 0)
}

// shown is what a listing gives for so many ticks: one less than has begun,
// as the kernel's timers show 00:59 for a fresh minute.
func shown(left int64) time.Duration {
	return max(ticksDuration(left)-time.Second, 0)
}

// eachTemplate visits the live templates until visit returns false. A template
// of another generation than its slot is of a real that has gone.
func (b *Backend) eachTemplate(visit func(entry, bpf.TemplateValue) bool) {
	for _, table := range b.templateTables() {
		for set := range table.sets() {
			if table.isEmpty(set) {
				continue
			}
			for w := range bpf.Ways {
				e := table.at(set, w)
				if t := bpf.TemplateValue(load64(e.value)); t.IsLive() && b.isOfSlot(t) && !visit(e, t) {
					return
				}
			}
		}
	}
}

// isOfSlot reports whether the slot still belongs to the real that t was given.
func (b *Backend) isOfSlot(t bpf.TemplateValue) bool {
	return t.Real() < uint32(len(b.dp.Reals)) && b.dp.Reals[t.Real()].TenantGeneration() == t.Generation()
}
