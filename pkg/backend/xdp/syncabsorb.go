package xdp

import (
	"net/netip"
	"slices"
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
		_, isKnown := b.absorption(&resolver{b: b}, &e, 0)
		return isKnown
	})
	b.takeToldRows()
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

// absorptions are entries in this director's numbers, those of IPv4 apart from
// those of IPv6: each family has a program of its own.
type absorptions [2][]bpf.Absorption

// absorbOf takes those of entries that are unsigned, or those that are not.
func (b *Backend) absorbOf(entries []connsync.Entry, isUnsigned bool) (rejected int, err error) {
	now := b.now()
	names := resolver{b: b}
	batch := &b.absorbing
	batch[0], batch[1] = batch[0][:0], batch[1][:0]
	for i := range entries {
		e := &entries[i]
		if e.IsUnsigned != isUnsigned {
			continue
		}
		a, known := b.absorption(&names, e, now)
		switch {
		case known && isUnsigned && b.knowsBetter(&a, now):
			rejected++
		case known && a.Value != 0:
			family := 0
			if e.Client.Addr().Is6() {
				family = 1
			}
			batch[family] = append(batch[family], a)
		case known: // it has expired, or its state means nothing here
			rejected++
		case !b.pen.take(*e, time.Now()):
			rejected++
		}
	}
	for family, store := range []func([]bpf.Absorption) error{b.dp.Absorb, b.dp.Absorb6} {
		if len(batch[family]) == 0 {
			continue
		}
		if err := store(batch[family]); err != nil {
			return rejected, err
		}
		for part := range slices.Chunk(batch[family], setsAhead) {
			b.readNotesAhead(family, part)
			for i := range part {
				switch a := &part[i]; a.Outcome {
				case bpf.AbsorbStored, bpf.AbsorbChanged:
					b.noteAbsorbed(a, isUnsigned)
				case bpf.AbsorbNoPlace, bpf.AbsorbBusy:
					rejected++
				}
			}
		}
	}
	return rejected, nil
}

// readNotesAhead has the CPU fetch what is noted of flows that were absorbed, so that
// the cache misses overlap.
func (b *Backend) readNotesAhead(family int, absorbed []bpf.Absorption) {
	if b.origins == nil || b.news == nil {
		return
	}
	origins, of, sum := b.origins.flows[family], &b.news.flows[family], uint64(0)
	for i := range absorbed {
		if a := &absorbed[i]; a.Kind == bpf.AbsorbFlow {
			sum += uint64(origins[a.Set*bpf.Ways+a.Way]) + uint64(of.view[a.Set].word[0])
		}
	}
	of.sum = sum
}

// absorption is an entry in this director's numbers. Known is false if it is of
// a service or real that this director does not have; its Value is 0 if there
// is nothing to store.
func (b *Backend) absorption(names *resolver, e *connsync.Entry, now uint64) (a bpf.Absorption, known bool) {
	isIPv6 := e.Client.Addr().Is6()
	if isIPv6 != e.Virtual.Addr().Is6() {
		return a, true
	}
	if isIPv6 && !b.ipv6 {
		return a, false // as for a service that the file does not have yet
	}
	if e.IsTemplate() {
		return b.templateAbsorption(names, e)
	}
	proto := lb.TCP
	local := localStates[e.State%connsync.State(len(localStates))] // the parser lets no others through
	state, isTaken := local, local != bpf.StateEmpty
	if e.Protocol == connsync.ProtocolUDP {
		proto, state, isTaken = lb.UDP, bpf.StateUDP, true
	}
	named := names.service(&e.Record, proto)
	if !named.isNumbered || named.service == nil {
		return a, false
	}
	r := names.real(named.service, e.Real)
	if r == nil {
		return a, false
	}
	if proto == lb.TCP && r.conf.Forward == lb.NAT {
		if twoWay, ok := twoWayStates[e.State]; ok {
			state, isTaken = twoWay, true
		}
	}
	age := ticks(e.Idle)
	if !isTaken || age > uint32(b.dp.Settings.Timeout[state]) {
		return a, true
	}
	a.Value = uint64(bpf.FlowValueOf(e.Virtual.Port(), r.slot, r.gen, state, e.IsProven, uint16(now)-uint16(age)))
	a.Kind = bpf.AbsorbFlow
	if isIPv6 {
		key := bpf.FlowKeyOfName(b.dp.Settings.NameOf(e.Client.Addr()), e.Client.Port(), named.number)
		a.Key, a.Hash, a.Owner = uint64(key), b.dp.Settings.FlowHash6(key, e.Virtual.Port()), bpf.AddressOf(e.Client.Addr())
	} else {
		a.Key = uint64(bpf.FlowKeyOf(e.Client.Addr(), e.Client.Port(), named.number))
		a.Hash = b.dp.Settings.FlowHash(e.Client, e.Virtual)
	}
	if e.Flags&connsync.FlagInactive == 0 || proto == lb.UDP {
		a.Replaces = 1
	}
	return a, true
}

func (b *Backend) templateAbsorption(names *resolver, e *connsync.Entry) (a bpf.Absorption, known bool) {
	proto := lb.TCP
	if e.Protocol == connsync.ProtocolUDP {
		proto = lb.UDP
	}
	s := names.service(&e.Record, proto).service
	if s == nil || !s.conf.Persistence.Enabled() {
		return a, false
	}
	r := names.real(s, e.Real)
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
	network, key := b.templateOf(s, e.Client.Addr())
	if network.Is6() {
		a.Owner = bpf.AddressOf(network)
	}
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
func (b *Backend) serviceOf(r *connsync.Record, proto lb.Protocol) *service {
	if r.Mark != 0 {
		return b.index().byMark[familyMark{r.Mark, r.Client.Addr().Is6()}]
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
	b.eachPlaceOf(a, func(place entry, value uint64) {
		v := bpf.FlowValue(value)
		if !v.IsLive() || !v.IsProven() || b.expired(v, now) {
			return
		}
		isTold, isUnsigned := b.originAt(false, place, value)
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
func (b *Backend) eachPlaceOf(a *bpf.Absorption, visit func(place entry, value uint64)) {
	isTemplate, family := a.Kind == bpf.AbsorbTemplate, familyOfOwner(a)
	t := b.flowTables()[family]
	if isTemplate {
		t = b.templateTables()[family]
	}
	for _, set := range bpf.TwoSets(a.Hash, uint32(t.sets())) {
		for way := range bpf.Ways {
			place := t.at(int(set), way)
			if place.key != a.Key || family == 1 && bpf.AddressOf(place.client()) != a.Owner {
				continue
			}
			v := load64(place.value)
			if isTemplate || bpf.FlowValue(v).Port() == bpf.FlowValue(a.Value).Port() {
				visit(place, v)
			}
		}
	}
}

// noteAbsorbed keeps what came from a peer from being told to peers as news,
// marks it in the list of connections if it was not there before, and has its row
// ask for connections if it is at another real.
func (b *Backend) noteAbsorbed(a *bpf.Absorption, isUnsigned bool) {
	if a.Kind == bpf.AbsorbFlow { // the program says where
		t := b.flowTables()[familyOfOwner(a)]
		b.noteAbsorbedAt(a, t.placeOf(a.Key, int(a.Set), int(a.Way)), a.Value, isUnsigned)
		return
	}
	b.eachPlaceOf(a, func(place entry, v uint64) { b.noteAbsorbedAt(a, place, v, isUnsigned) })
}

func (b *Backend) noteAbsorbedAt(a *bpf.Absorption, place entry, v uint64, isUnsigned bool) {
	isTemplate := a.Kind == bpf.AbsorbTemplate
	isMarked := a.Outcome == bpf.AbsorbStored || isUnsigned
	if !isMarked {
		isMarked, _ = b.originAt(isTemplate, place, v)
	}
	if isMarked {
		b.markOrigin(isTemplate, place, v, isUnsigned)
	}
	if !isTemplate {
		b.noteRow(place, bpf.FlowValue(v))
	}
	if b.news == nil {
		return
	}
	of := &b.news.flows[familyOf(place.table)]
	if isTemplate {
		of = &b.news.templates[familyOf(place.table)]
	}
	of.view.note(place.set, place.way, v, uint16(v))
}

// familyOfOwner is the place of an absorption's table among those of both families.
func familyOfOwner(a *bpf.Absorption) int {
	if a.Owner != (bpf.Address{}) {
		return 1
	}
	return 0
}
