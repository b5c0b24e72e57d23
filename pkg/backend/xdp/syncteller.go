package xdp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// teller makes entries for peers of what is in the tables. It is good for as long
// as the backend's lock is held: what it has looked up of a VIP or a real it does
// not look up again for the next of thousands of entries.
type teller struct {
	b       *Backend
	now     uint64
	vips    [1 << 5]toldVIP
	reals   [1 << 8]toldReal
	timeout [bpf.States]time.Duration
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

func (b *Backend) newTeller() *teller {
	t := &teller{b: b, now: b.now()}
	for state := range t.timeout {
		t.timeout[state] = b.stateTimeout(bpf.FlowState(state))
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

// appendFlow appends a live flow as peers are told of it. It is false for one that
// they are not told of, or that has outlived its real.
func (t *teller) appendFlow(entries *[]connsync.Entry, k bpf.FlowKey, client netip.Addr, v bpf.FlowValue) bool {
	if !isToldOf(v) {
		return false
	}
	state := wireStates[v.State()]
	vip := t.vip(k.VIP())
	if !state.isTold || !vip.isNumbered || !t.b.current(v) || t.b.expired(v, t.now) {
		return false
	}
	real := t.real(v.Real())
	n := len(*entries)
	*entries = slices.Grow(*entries, 1)[:n+1]
	e := &(*entries)[n]
	*e = connsync.Entry{Idle: ticksDuration(int64(age(v, t.now))), IsProven: v.IsProven()}
	r := &e.Record
	r.Protocol, r.Flags, r.State, r.Mark = vip.protocol, real.flags, state.state, real.mark
	r.Client = netip.AddrPortFrom(client, k.ClientPort())
	r.Virtual = netip.AddrPortFrom(vip.addr, v.Port())
	port := real.port
	if port == 0 {
		port = v.Port()
	}
	r.Real = netip.AddrPortFrom(real.addr, port)
	r.Timeout = t.timeout[v.State()]
	if v.State() != bpf.StateEstablished {
		r.Flags |= connsync.FlagInactive
	}
	return true
}

// appendTemplate appends a live template as peers are told of it.
func (t *teller) appendTemplate(entries *[]connsync.Entry, e entry, client netip.Addr, v bpf.TemplateValue) bool {
	b := t.b
	c, ok := b.templateConnection(e, v, t.now)
	if !ok || !b.isOfSlot(v) {
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
	*entries = append(*entries, connsync.Entry{Record: r, Idle: max(r.Timeout-left, 0), IsProven: v.IsProven()})
	return true
}

// virtualOfMark6 is a mark as the address of a template of IPv6: the first four
// bytes of it, as the kernel has it (ip_vs_sched_persist).
func virtualOfMark6(mark uint32) netip.AddrPort {
	var a [16]byte
	binary.BigEndian.PutUint32(a[:], mark)
	return netip.AddrPortFrom(netip.AddrFrom16(a), 0)
}
