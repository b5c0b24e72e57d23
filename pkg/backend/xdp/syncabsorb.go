package xdp

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Absorb implements [connsync.Table]. What waited is older than what has just
// come, so it goes first.
func (b *Backend) Absorb(batch *connsync.Batch) (rejected int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	waited := b.pen.release(b.applies, func(e connsync.Entry) bool {
		return b.kindOf(&resolver{b: b}, &e).isKnown
	})
	b.takeToldRows()
	for _, part := range []*connsync.Batch{connsync.BatchOf(waited...), batch} {
		n, err := b.absorb(part)
		if rejected += n; err != nil {
			return rejected, err
		}
	}
	return rejected, nil
}

// absorb takes entries into the tables: those whose sender has proven who it is
// first, since they decide what an unsigned word counts for.
func (b *Backend) absorb(batch *connsync.Batch) (rejected int, err error) {
	for _, isUnsigned := range []bool{false, true} {
		n, err := b.absorbOf(batch, isUnsigned)
		if rejected += n; err != nil {
			return rejected, err
		}
	}
	return rejected, nil
}

// absorbOf takes those of a batch's entries that are unsigned, or those that are not.
func (b *Backend) absorbOf(batch *connsync.Batch, isUnsigned bool) (rejected int, err error) {
	if !slices.ContainsFunc(batch.Kinds, func(e connsync.Entry) bool { return e.IsUnsigned == isUnsigned }) {
		return 0, nil
	}
	now, tick := b.now(), ticksDuration(1)
	names := resolver{b: b}
	kinds := slices.Grow(b.absorbedKinds[:0], len(batch.Kinds))[:len(batch.Kinds)]
	for i := range kinds {
		if e := &batch.Kinds[i]; e.IsUnsigned == isUnsigned {
			kinds[i] = b.kindOf(&names, e)
		}
	}
	b.absorbedKinds = kinds
	to := b.newAbsorber(isUnsigned)
	b.tookUnsigned = b.tookUnsigned || isUnsigned
	for i := range batch.Members {
		m := &batch.Members[i]
		e, kind := &batch.Kinds[m.Kind], &kinds[m.Kind]
		if e.IsUnsigned != isUnsigned {
			continue
		}
		var a bpf.Absorption
		isLive := false
		switch idle := time.Duration(m.Idle) * time.Second; {
		case !kind.isKnown:
			if !b.pen.take(batch.EntryOf(m), time.Now()) {
				rejected++
			}
			continue
		case !kind.isTaken: // the state means nothing here
		case kind.entry.Kind == bpf.AbsorbTemplate:
			a, isLive = b.templateOfKind(kind, batch.ClientOf(m).Addr(), idle)
		default:
			a, isLive = b.flowOf(kind, e, batch.ClientOf(m), uint32((idle+tick-1)/tick), now)
		}
		if !isLive || isUnsigned && b.knowsBetter(&a, now) {
			rejected++
			continue
		}
		if !isUnsigned && b.tookUnsigned && b.isUnsignedHere(&a) {
			a.Value, a.Replaces = a.Value&^0xffff|uint64(uint16(now)), 1 // who has proven it is right, however old
		}
		if err := to.add(kind.family, &a); err != nil {
			return rejected + to.refused, err
		}
	}
	err = to.flush()
	return rejected + to.refused, err
}

// absorber puts entries in this director's numbers into the tables, as many at a time
// as the packet path's program takes.
type absorber struct {
	b          *Backend
	room       *[bpf.Absorptions]bpf.Absorption
	n          int // entries in room
	family     int // of the entries in room: each family has a program of its own
	isUnsigned bool
	views      *peerViews
	refused    int // had no place
}

func (b *Backend) newAbsorber(isUnsigned bool) *absorber {
	return &absorber{b: b, room: b.dp.Absorptions(), isUnsigned: isUnsigned, views: b.viewsOfPeers()}
}

func (to *absorber) add(family int, a *bpf.Absorption) error {
	if to.n == len(to.room) || to.n > 0 && to.family != family {
		if err := to.flush(); err != nil {
			return err
		}
	}
	to.room[to.n], to.family = *a, family
	to.n++
	return nil
}

// flush stores what has been added, and notes what became of it.
func (to *absorber) flush() error {
	if to.n == 0 {
		return nil
	}
	stored := to.room[:to.n]
	to.n = 0
	if err := to.b.dp.Absorb(to.family, len(stored)); err != nil {
		return err
	}
	flows := to.b.flowTables()[to.family] // what was read of it is old
	to.views.sum = readNotesAhead(to.views.flows[to.family], stored)
	for i := range stored {
		switch a := &stored[i]; {
		case a.Outcome == bpf.AbsorbNoPlace, a.Outcome == bpf.AbsorbBusy:
			to.refused++
		case a.Outcome != bpf.AbsorbStored && a.Outcome != bpf.AbsorbChanged:
		case a.Kind == bpf.AbsorbFlow: // the program says where
			to.b.noteAbsorbed(a, flows.placeOf(a.Key, int(a.Set), int(a.Way)), a.Value, to.isUnsigned)
		default:
			to.b.eachPlaceOf(a, func(place entry, v uint64) { to.b.noteAbsorbed(a, place, v, to.isUnsigned) })
		}
	}
	return nil
}

// readNotesAhead has the CPU fetch what is noted of flows that were absorbed, so that
// the cache misses overlap. The sum is for the compiler, which leaves out what nobody
// uses.
func readNotesAhead(view peerView, absorbed []bpf.Absorption) (sum uint64) {
	for i := range absorbed {
		if a := &absorbed[i]; a.Kind == bpf.AbsorbFlow {
			sum += uint64(view[a.Set].word[0])
		}
	}
	return sum
}

// absorbedKind is what entries of a kind have in common in this director's numbers.
type absorbedKind struct {
	isKnown bool // this director has the service and the real
	isTaken bool // the state means something here
	family  int  // 0: IPv4, 1: IPv6
	service *service
	number  uint16        // of the VIP
	age     uint32        // ticks that a flow may have been idle for
	life    time.Duration // of a template

	// entry is an entry without its client and, of a flow, its time stamp.
	entry bpf.Absorption
}

// kindOf is a kind of entries in this director's numbers.
func (b *Backend) kindOf(names *resolver, e *connsync.Entry) (k absorbedKind) {
	if e.Virtual.Addr().Is6() {
		if k.family = 1; !b.ipv6 {
			return k // as for a service that the file does not have yet
		}
	}
	var proto lb.Protocol
	switch {
	case e.Protocol == connsync.ProtocolTCP, e.Protocol == connsync.ProtocolNone && e.Mark != 0:
		proto = lb.TCP
	case e.Protocol == connsync.ProtocolUDP:
		proto = lb.UDP
	default: // SCTP: its services and states are none of lvx
		k.isKnown = true
		return k
	}
	named := names.service(&e.Record, proto)
	k.service, k.number = named.service, named.number
	if named.service == nil || !e.IsTemplate() && !named.isNumbered || e.IsTemplate() && !named.service.conf.Persistence.Enabled() {
		return k
	}
	r := names.real(named.service, e.Real)
	if r == nil {
		return k
	}
	k.isKnown, k.isTaken = true, true
	if e.IsTemplate() {
		k.entry.Kind = bpf.AbsorbTemplate
		k.entry.Value = uint64(bpf.TemplateValueOf(r.slot, r.gen, e.State == connsync.StateAssured, e.IsProven))
		k.life = cmp.Or(e.Timeout, named.service.conf.Persistence.Timeout)
		return k
	}
	var state bpf.FlowState
	state, k.isTaken = stateHere(e, r.conf.Forward)
	k.entry.Kind, k.age = bpf.AbsorbFlow, uint32(b.dp.Settings.Timeout[state])
	k.entry.Value = uint64(bpf.FlowValueOf(e.Virtual.Port(), r.slot, r.gen, state, e.IsProven, 0))
	if e.Flags&connsync.FlagInactive == 0 || proto == lb.UDP {
		k.entry.Replaces = 1
	}
	return k
}

// stateHere is the state of a connection that a peer tells of, if it means something
// here.
func stateHere(e *connsync.Entry, forward lb.Forward) (state bpf.FlowState, isTaken bool) {
	if e.Protocol == connsync.ProtocolUDP {
		return bpf.StateUDP, true
	}
	if twoWay, ok := twoWayStates[e.State]; ok && forward == lb.NAT {
		return twoWay, true
	}
	state = localStates[e.State%connsync.State(len(localStates))] // the parser lets no others through
	return state, state != bpf.StateEmpty
}

// flowOf is a flow of a kind in this director's numbers. It is false for one that has
// expired.
func (b *Backend) flowOf(k *absorbedKind, e *connsync.Entry, client netip.AddrPort, idle uint32, now uint64) (a bpf.Absorption, isLive bool) {
	if idle > k.age {
		return a, false
	}
	a = k.entry
	a.Value |= uint64(uint16(now) - uint16(idle))
	if k.family == 1 {
		key := bpf.FlowKeyOfName(b.dp.Settings.NameOf(client.Addr()), client.Port(), k.number)
		a.Key, a.Hash, a.Owner = uint64(key), b.dp.Settings.FlowHash6(key, e.Virtual.Port()), bpf.AddressOf(client.Addr())
		return a, true
	}
	a.Key = uint64(bpf.FlowKeyOf(client.Addr(), client.Port(), k.number))
	a.Hash = b.dp.Settings.FlowHash(client, e.Virtual)
	return a, true
}

// templateOfKind is a template of a kind in this director's numbers. It is false for
// one that has expired.
func (b *Backend) templateOfKind(k *absorbedKind, client netip.Addr, idle time.Duration) (a bpf.Absorption, isLive bool) {
	if idle >= k.life {
		return a, false
	}
	a = k.entry
	network, key := b.templateOf(k.service, client)
	if k.family == 1 {
		a.Owner = bpf.AddressOf(network)
	}
	a.Key, a.Hash, a.Ticks = uint64(key), b.dp.Settings.TemplateHash(key), ticks(k.life-idle)
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

// knowsBetter reports whether this director holds a flow on which an unsigned word
// counts for nothing: it has seen the flow at work a moment ago, or an authenticated
// peer has told of the flow, proven or not.
func (b *Backend) knowsBetter(a *bpf.Absorption, now uint64) (is bool) {
	if a.Kind != bpf.AbsorbFlow {
		return false // a template that lives is kept in any case
	}
	b.eachPlaceOf(a, func(place entry, value uint64) {
		v := bpf.FlowValue(value)
		if !v.IsLive() || b.expired(v, now) {
			return
		}
		isTold, isUnsigned := b.originAt(false, place, value)
		switch {
		case isUnsigned:
		case isTold, v.IsProven() && uint32(age(v, now)) <= ticks(ownTime):
			is = true
		}
	})
	return is
}

// isUnsignedHere reports whether the flow of an absorption is here by an unsigned word.
func (b *Backend) isUnsignedHere(a *bpf.Absorption) (is bool) {
	if a.Kind != bpf.AbsorbFlow {
		return false
	}
	b.eachPlaceOf(a, func(place entry, value uint64) {
		_, isUnsigned := b.originAt(false, place, value)
		is = is || isUnsigned
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
func (b *Backend) noteAbsorbed(a *bpf.Absorption, place entry, v uint64, isUnsigned bool) {
	isTemplate := a.Kind == bpf.AbsorbTemplate
	known := &b.views.of(isTemplate, place.table)[place.set]
	isMarked := a.Outcome == bpf.AbsorbStored || isUnsigned || known.origin[place.way]&originUnsigned != 0
	if !isMarked {
		isMarked, _ = b.originAt(isTemplate, place, v)
	}
	if isMarked {
		known.origin[place.way] = originOf(place.key, v, isUnsigned)
	}
	if !isTemplate {
		b.noteRow(place, bpf.FlowValue(v))
	}
	if b.news != nil {
		known.note(place.way, v, uint16(v))
	}
}

// familyOfOwner is the place of an absorption's table among those of both families.
func familyOfOwner(a *bpf.Absorption) int {
	if a.Owner != (bpf.Address{}) {
		return 1
	}
	return 0
}
