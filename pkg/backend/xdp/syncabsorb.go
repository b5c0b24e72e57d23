package xdp

import (
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Absorb implements [connsync.Table]. What waited is older than what has just
// come, so it goes first.
func (b *Backend) Absorb(entries []connsync.Entry) (rejected int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	waited := b.pen.release(b.applies, func(e connsync.Entry) bool {
		_, isKnown := b.absorption(e, 0)
		return isKnown
	})
	for _, part := range [][]connsync.Entry{waited, entries} {
		n, err := b.absorb(part)
		if rejected += n; err != nil {
			return rejected, err
		}
	}
	return rejected, nil
}

// absorb takes entries into the tables: those whose sender has proven who it is
// first, since they decide what an unsigned word counts for.
func (b *Backend) absorb(entries []connsync.Entry) (rejected int, err error) {
	for _, isUnsigned := range []bool{false, true} {
		n, err := b.absorbOf(entries, isUnsigned)
		if rejected += n; err != nil {
			return rejected, err
		}
	}
	return rejected, nil
}

// absorbOf takes those of entries that are unsigned, or those that are not.
func (b *Backend) absorbOf(entries []connsync.Entry, isUnsigned bool) (rejected int, err error) {
	now := b.now()
	var batch []bpf.Absorption
	for _, e := range entries {
		if e.IsUnsigned != isUnsigned {
			continue
		}
		a, known := b.absorption(e, now)
		switch {
		case known && isUnsigned && b.knowsBetter(&a, now):
			rejected++
		case known && a.Value != 0:
			batch = append(batch, a)
		case known: // it has expired, or its state means nothing here
			rejected++
		case !b.pen.take(e, time.Now()):
			rejected++
		}
	}
	if len(batch) == 0 {
		return rejected, nil
	}
	if err := b.dp.Absorb(batch); err != nil {
		return rejected, err
	}
	for i := range batch {
		switch batch[i].Outcome {
		case bpf.AbsorbStored, bpf.AbsorbChanged:
			b.noteAbsorbed(&batch[i], isUnsigned)
		case bpf.AbsorbNoPlace, bpf.AbsorbBusy:
			rejected++
		}
	}
	return rejected, nil
}

// absorption is an entry in this director's numbers. Known is false if it is of
// a service or real that this director does not have; its Value is 0 if there
// is nothing to store.
func (b *Backend) absorption(e connsync.Entry, now uint64) (a bpf.Absorption, known bool) {
	if !e.Client.Addr().Is4() || !e.Virtual.Addr().Is4() { // IPv6 is not synced
		return a, true
	}
	if e.IsTemplate() {
		return b.templateAbsorption(e, now)
	}
	proto := lb.TCP
	state, isTaken := localStates[e.State]
	if e.Protocol == connsync.ProtocolUDP {
		proto, state, isTaken = lb.UDP, bpf.StateUDP, true
	}
	number, isNumbered := b.numbers.of[endpoint{e.Virtual.Addr(), proto}]
	s := b.serviceOf(e.Record, proto)
	if !isNumbered || s == nil {
		return a, false
	}
	r := s.realAt(e.Real)
	if r == nil {
		return a, false
	}
	if twoWay, ok := twoWayStates[e.State]; ok && proto == lb.TCP && r.conf.Forward == lb.NAT {
		state, isTaken = twoWay, true
	}
	age := ticks(e.Idle)
	if !isTaken || age > uint32(b.dp.Settings.Timeout[state]) {
		return a, true
	}
	a.Key = uint64(bpf.FlowKeyOf(e.Client.Addr(), e.Client.Port(), number))
	a.Hash = b.dp.Settings.FlowHash(e.Client, e.Virtual)
	a.Value = uint64(bpf.FlowValueOf(e.Virtual.Port(), r.slot, r.gen, state, e.IsProven, uint16(now)-uint16(age)))
	a.Kind = bpf.AbsorbFlow
	if e.Flags&connsync.FlagInactive == 0 || proto == lb.UDP {
		a.Replaces = 1
	}
	return a, true
}

func (b *Backend) templateAbsorption(e connsync.Entry, now uint64) (a bpf.Absorption, known bool) {
	proto := lb.TCP
	if e.Protocol == connsync.ProtocolUDP {
		proto = lb.UDP
	}
	s := b.serviceOf(e.Record, proto)
	if s == nil || !s.conf.Persistence.Enabled() {
		return a, false
	}
	r := s.realAt(e.Real)
	if r == nil {
		return a, false
	}
	lifetime := e.Timeout
	if lifetime == 0 {
		lifetime = s.conf.Persistence.Timeout
	}
	if e.Idle >= lifetime {
		return a, true
	}
	key := bpf.TemplateKeyOf(bpf.IPv4Word(e.Client.Addr())&s.entry.PersistMask, s.cookie)
	a.Key = uint64(key)
	a.Hash = b.dp.Settings.TemplateHash(key)
	a.Value = uint64(bpf.TemplateValueOf(r.slot, r.gen, e.State == connsync.StateAssured, e.IsProven))
	a.Ticks = ticks(lifetime - e.Idle)
	a.Kind = bpf.AbsorbTemplate
	if a.Value == 0 {
		a.Value = 1 // slot 0, generation 0: the end is written over it
	}
	return a, true
}

// serviceOf is the service that a record is of: by its mark, else by where it
// listens.
func (b *Backend) serviceOf(r connsync.Record, proto lb.Protocol) *service {
	if r.Mark != 0 {
		return b.index().byMark[r.Mark]
	}
	return b.index().find(r.Virtual, proto)
}

// realAt is a real of s by its address: with a port of its own, or with the
// service's.
func (s *service) realAt(at netip.AddrPort) *real {
	if r := s.reals[netip.AddrPortFrom(at.Addr(), 0)]; r != nil {
		return r
	}
	return s.reals[at]
}

// ownTime is how long this director takes its own word on a flow for newer than
// anything that comes unsigned: a client that is at work here is not at work
// elsewhere, and does not use its port for another connection so soon.
const ownTime = time.Minute

// knowsBetter reports whether this director holds a proven flow on which an
// unsigned word counts for nothing: it has seen the flow at work a moment ago, or
// an authenticated peer has told of the flow.
func (b *Backend) knowsBetter(a *bpf.Absorption, now uint64) (is bool) {
	if a.Kind != bpf.AbsorbFlow {
		return false // a template that lives is kept in any case
	}
	b.eachPlaceOf(a, func(place int, value uint64) {
		v := bpf.FlowValue(value)
		if !v.IsLive() || !v.IsProven() || b.expired(v, now) {
			return
		}
		isTold, isUnsigned := b.originAt(false, place, a.Key, value)
		switch {
		case isUnsigned:
		case isTold, uint32(age(v, now)) <= ticks(ownTime):
			is = true
		}
	})
	return is
}

// eachPlaceOf visits the places where the entry of an absorption may be, of
// flows those with its port.
func (b *Backend) eachPlaceOf(a *bpf.Absorption, visit func(place int, value uint64)) {
	isTemplate := a.Kind == bpf.AbsorbTemplate
	table := b.dp.Flows
	if isTemplate {
		table = b.dp.Templates
	}
	for _, set := range bpf.TwoSets(a.Hash, uint32(len(table)/8)) {
		for w := range uint32(bpf.Ways) {
			if load64(&table[set*8+w]) != a.Key {
				continue
			}
			v := load64(&table[set*8+4+w])
			if isTemplate || bpf.FlowValue(v).Port() == bpf.FlowValue(a.Value).Port() {
				visit(int(set*bpf.Ways+w), v)
			}
		}
	}
}

// noteAbsorbed keeps what came from a peer from being told to peers as news,
// marks it in the list of connections if it was not there before, and has its row
// ask for connections if it is at another real.
func (b *Backend) noteAbsorbed(a *bpf.Absorption, isUnsigned bool) {
	isTemplate := a.Kind == bpf.AbsorbTemplate
	b.eachPlaceOf(a, func(place int, v uint64) {
		wasTold, _ := b.originAt(isTemplate, place, a.Key, v)
		if a.Outcome == bpf.AbsorbStored || wasTold || isUnsigned {
			b.markOrigin(a, place, v, isUnsigned)
		}
		if !isTemplate {
			b.noteRow(b.flowTables()[0].at(place/bpf.Ways, place%bpf.Ways), bpf.FlowValue(v))
		}
		switch {
		case b.news == nil:
		case isTemplate:
			b.news.templates.note(place, v, uint16(v))
		default:
			b.news.flows.note(place, v, uint16(v))
		}
	})
}
