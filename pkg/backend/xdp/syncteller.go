package xdp

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// teller makes a batch for peers of what is in the tables. It is good for as long
// as the backend's lock is held: what it has looked up of a VIP, a real or a kind
// it does not look up again for the next of thousands of entries.
type teller struct {
	b       *Backend
	batch   *connsync.Batch
	now     uint64
	tick    time.Duration
	vips    [1 << 5]toldVIP
	reals   [1 << 8]toldReal
	kinds   [1 << 9]toldKind
	timeout [bpf.States]time.Duration
	refresh [bpf.States]uint32 // by code: see [refreshOf]
}

// toldKind is the kind, in the batch, of flows that differ in client and time
// alone.
type toldKind struct {
	like    bpf.FlowValue // without nonce and time stamp; never 0 for a flow
	vip     uint16
	isIPv6  bool
	isTold  bool
	kind    uint32
	timeout uint16 // ticks
}

// toldVIP is what entries say of a VIP's number.
type toldVIP struct {
	number     uint16
	isKnown    bool
	isNumbered bool
	addr       netip.Addr
	protocol   uint8
}

// toldReal is what entries say of a real's slot.
type toldReal struct {
	slot    uint32
	isKnown bool
	addr    netip.Addr
	port    uint16 // 0: the VIP's
	flags   connsync.Flags
	mark    uint32
}

// newTeller is a teller into a batch.
func (b *Backend) newTeller(batch *connsync.Batch) *teller {
	t := &teller{b: b, batch: batch, now: b.now(), tick: ticksDuration(1)}
	for state := range t.timeout {
		t.timeout[state] = b.stateTimeout(bpf.FlowState(state))
	}
	for code := range t.refresh {
		t.refresh[code] = refreshOf(uint32(b.dp.Settings.Timeout[code]))
	}
	return t
}

func (t *teller) vip(number uint16) *toldVIP {
	v := &t.vips[number%uint16(len(t.vips))]
	if v.isKnown && v.number == number {
		return v
	}
	e, isNumbered := t.b.numbers.who[number]
	*v = toldVIP{number: number, isKnown: true, isNumbered: isNumbered, addr: e.vip, protocol: connsync.ProtocolTCP}
	if e.proto == lb.UDP {
		v.protocol = connsync.ProtocolUDP
	}
	return v
}

func (t *teller) real(slot uint32) *toldReal {
	r := &t.reals[slot%uint32(len(t.reals))]
	if r.isKnown && r.slot == slot {
		return r
	}
	raw := &t.b.dp.Reals[slot]
	*r = toldReal{slot: slot, isKnown: true, addr: t.b.addressOf(slot), flags: t.b.wireFlags(slot), port: t.b.portOf(slot, 0)}
	if s := t.b.byIndex[raw.Service%bpf.Services]; s != nil {
		if mark, ok := markOf(s); ok {
			r.mark = mark
		}
	}
	return r
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

// tellFlow adds a live flow to the batch. It is false for one that peers are not
// told of, or that has outlived its real.
func (t *teller) tellFlow(k bpf.FlowKey, client [16]byte, isIPv6 bool, v bpf.FlowValue) bool {
	like := v.WithNonce(0) &^ 0xffff // the time stamp
	known := &t.kinds[(uint64(like)^uint64(k.VIP())<<32)*golden>>(64-9)]
	if known.like != like || known.vip != k.VIP() || known.isIPv6 != isIPv6 {
		*known = t.kindOf(like, k.VIP(), isIPv6)
	}
	old := age(v, t.now)
	if !known.isTold || old > known.timeout {
		return false
	}
	t.batch.Members = append(t.batch.Members, connsync.Member{
		Client: client, Port: k.ClientPort(), Kind: known.kind, Idle: uint32(time.Duration(old) * t.tick / time.Second),
	})
	return true
}

// kindOf adds a kind of flows to the batch, unless peers are not told of such.
func (t *teller) kindOf(like bpf.FlowValue, number uint16, isIPv6 bool) toldKind {
	kind := toldKind{like: like, vip: number, isIPv6: isIPv6, timeout: t.b.dp.Settings.Timeout[like.Code()]}
	state := wireStates[like.State()]
	vip := t.vip(number)
	if !isToldOf(like) || !state.isTold || !vip.isNumbered || !t.b.current(like) {
		return kind
	}
	real := t.real(like.Real())
	if real.addr.Is6() != vip.addr.Is6() {
		return kind // an entry has one family (ip_vs_genl_new_daemon refuses to sync beside such reals)
	}
	var e connsync.Entry
	e.Protocol, e.Flags, e.State, e.Mark = vip.protocol, real.flags, state.state, real.mark
	e.Virtual = netip.AddrPortFrom(vip.addr, like.Port())
	e.Real = netip.AddrPortFrom(real.addr, cmp.Or(real.port, like.Port()))
	e.Timeout, e.IsProven = t.timeout[like.State()], like.IsProven()
	if like.State() != bpf.StateEstablished {
		e.Flags |= connsync.FlagInactive
	}
	kind.kind, kind.isTold = t.batch.AddKind(e), true
	return kind
}

// tellTemplate adds a live template to the batch.
func (t *teller) tellTemplate(e entry, client netip.Addr, v bpf.TemplateValue) bool {
	b := t.b
	c, ok := b.templateConnection(e, v, t.now)
	if !ok || !b.isOfSlot(v) || c.Real.Addr().Is6() != client.Is6() {
		return false
	}
	s := b.byIndex[b.dp.Reals[v.Real()].Service%bpf.Services]
	r := connsync.Record{
		Flags:  b.wireFlags(v.Real()) | connsync.FlagInactive | connsync.FlagTemplate,
		Client: netip.AddrPortFrom(client, 0), Virtual: c.Virtual, Real: c.Real,
		Timeout: s.conf.Persistence.Timeout,
	}
	switch mark, isByMark := markOf(s); {
	case isByMark:
		r.Mark = mark
		if client.Is6() {
			r.Virtual = virtualOfMark6(mark)
		}
	case c.Proto == lb.UDP:
		r.Protocol = connsync.ProtocolUDP
	default:
		r.Protocol = connsync.ProtocolTCP
	}
	if v.IsAssured() {
		r.State = connsync.StateAssured
	}
	if v.IsRenewed() {
		r.Timeout = renewTicks * time.Second
	}
	left := ticksDuration(int64(v.Left(t.now)))
	t.batch.Add(connsync.Entry{Record: r, Idle: max(r.Timeout-left, 0), IsProven: v.IsProven()})
	return true
}

// virtualOfMark6 is a mark as the address of a template of IPv6: the first four
// bytes of it, as the kernel has it (ip_vs_sched_persist).
func virtualOfMark6(mark uint32) netip.AddrPort {
	var a [16]byte
	binary.BigEndian.PutUint32(a[:], mark)
	return netip.AddrPortFrom(netip.AddrFrom16(a), 0)
}
