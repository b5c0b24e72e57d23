package xdp

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// wireStates are the states of flows as peers are told of them. A half-open
// connection is not told of, as in the kernel (ip_vs_sync_conn_needed).
var wireStates = map[bpf.FlowState]connsync.State{
	bpf.StateEstablished: connsync.StateEstablished,
	bpf.StateFinWait:     connsync.StateFinWait,
	bpf.StateTimeWait:    connsync.StateTimeWait,
	bpf.StateClose:       connsync.StateClose,
	bpf.StateUDP:         connsync.StateNone,
	bpf.StateSynSent:     connsync.StateSynSent,
	bpf.StateCloseWait:   connsync.StateCloseWait,
	bpf.StateLastAck:     connsync.StateLastAck,
}

// localStates are the states of TCP connections that peers tell of. Those that
// only a director that sees both directions has count as closing; others are
// not taken.
var localStates = map[connsync.State]bpf.FlowState{
	connsync.StateEstablished: bpf.StateEstablished,
	connsync.StateFinWait:     bpf.StateFinWait,
	connsync.StateTimeWait:    bpf.StateTimeWait,
	connsync.StateClose:       bpf.StateClose,
	connsync.StateCloseWait:   bpf.StateFinWait,
	connsync.StateLastAck:     bpf.StateFinWait,
}

// twoWayStates are those of localStates that are another one for a connection by
// NAT, of which this director sees both directions.
var twoWayStates = map[connsync.State]bpf.FlowState{
	connsync.StateSynSent:   bpf.StateSynSent,
	connsync.StateCloseWait: bpf.StateCloseWait,
	connsync.StateLastAck:   bpf.StateLastAck,
}

// wireFlags are the flags of an entry of a real, by how the real is reached. What
// a tunnel reaches is told of as direct routing's: each director forwards by its
// own configuration.
func (b *Backend) wireFlags(slot uint32) connsync.Flags {
	if b.dp.Reals[slot].Method() == bpf.ForwardNat {
		return connsync.ForwardMasq
	}
	return directRouting
}

// portOf is the port of a real that packets to a VIP's port go to.
func (b *Backend) portOf(slot uint32, port uint16) uint16 {
	if raw := &b.dp.Reals[slot]; raw.Method() == bpf.ForwardNat {
		return cmp.Or(bpf.PortWord(raw.Port), port)
	}
	return port
}

// directRouting are the flags of an entry that direct routing forwards.
const directRouting = connsync.ForwardRoute | connsync.FlagNoOutput

// stateTimeout is how long a flow lives in a state without a packet.
func (b *Backend) stateTimeout(s bpf.FlowState) time.Duration {
	t := b.state.Timeouts.WithDefaults()
	switch s {
	case bpf.StateSynRecv:
		return synRecvTimeout
	case bpf.StateEstablished:
		return t.TCP
	case bpf.StateFinWait:
		return t.TCPFin
	case bpf.StateTimeWait:
		return timeWaitTimeout
	case bpf.StateClose:
		return closeTimeout
	case bpf.StateSynSent:
		return synSentTimeout
	case bpf.StateCloseWait:
		return closeWaitTimeout
	case bpf.StateLastAck:
		return lastAckTimeout
	}
	return t.UDP
}

// isToldOf reports whether peers are told of a flow. They are not of one that is
// half-open or of a single datagram: its client may be made up.
func isToldOf(v bpf.FlowValue) bool {
	switch v.State() {
	case bpf.StateSynRecv:
		return false
	case bpf.StateUDP:
		return v.IsProven()
	}
	return true
}

// flowEntry is a live flow as peers are told of it. It is false for one that
// they are not told of, or that has outlived its real.
func (b *Backend) flowEntry(k bpf.FlowKey, v bpf.FlowValue, now uint64) (connsync.Entry, bool) {
	if !isToldOf(v) {
		return connsync.Entry{}, false
	}
	state, isTold := wireStates[v.State()]
	e, isNumbered := b.numbers.who[k.VIP()]
	if !isTold || !isNumbered || !b.current(v) || b.expired(v, now) {
		return connsync.Entry{}, false
	}
	r := connsync.Record{
		Protocol: connsync.ProtocolTCP, Flags: b.wireFlags(v.Real()), State: state,
		Client:  netip.AddrPortFrom(k.Client(), k.ClientPort()),
		Virtual: netip.AddrPortFrom(e.vip, v.Port()),
		Real:    netip.AddrPortFrom(b.addressOf(v.Real()), b.portOf(v.Real(), v.Port())),
		Timeout: b.stateTimeout(v.State()),
	}
	if e.proto == lb.UDP {
		r.Protocol = connsync.ProtocolUDP
	}
	if v.State() != bpf.StateEstablished {
		r.Flags |= connsync.FlagInactive
	}
	if s := b.byIndex[b.dp.Reals[v.Real()].Service%bpf.Services]; s != nil {
		if mark, ok := markOf(s); ok {
			r.Mark = mark
		}
	}
	idle := ticksDuration(int64(age(v, now)))
	return connsync.Entry{Record: r, Idle: idle, IsProven: v.IsProven()}, true
}

// templateEntry is a live template as peers are told of it.
func (b *Backend) templateEntry(k bpf.TemplateKey, t bpf.TemplateValue, now uint64) (connsync.Entry, bool) {
	c, ok := b.templateConnection(entry{key: uint64(k), table: b.templateTables()[0]}, t, now)
	if !ok || !b.isOfSlot(t) {
		return connsync.Entry{}, false
	}
	s := b.byIndex[b.dp.Reals[t.Real()].Service%bpf.Services]
	r := connsync.Record{
		Flags:  b.wireFlags(t.Real()) | connsync.FlagInactive | connsync.FlagTemplate,
		Client: c.Client, Virtual: c.Virtual, Real: c.Real,
		Timeout: s.conf.Persistence.Timeout,
	}
	switch mark, isByMark := markOf(s); {
	case isByMark:
		r.Mark = mark
	case c.Proto == lb.UDP:
		r.Protocol = connsync.ProtocolUDP
	default:
		r.Protocol = connsync.ProtocolTCP
	}
	if t.IsAssured() {
		r.State = connsync.StateAssured
	}
	if t.IsRenewed() {
		r.Timeout = renewTicks * time.Second
	}
	left := ticksDuration(int64(t.Left(now)))
	return connsync.Entry{Record: r, Idle: max(r.Timeout-left, 0), IsProven: t.IsProven()}, true
}
