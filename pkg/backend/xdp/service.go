package xdp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// service is what the backend remembers of one service between two states.
type service struct {
	index   uint32 // into services, cursors, labels
	cookie  uint32 // who holds the index; keys templates and filters
	conf    lb.Service
	wanted  lb.Service // what it becomes in the Apply that is under way
	isThere bool       // part of the state in force; if not, kept for its flows
	isNew   bool       // claimed, and never prepared with success
	inApply uint64     // the last Apply that had it

	isWritten bool // reals, ring and entry are those of conf,
	filtered  bool // which was, or was not, under deny or allow lists,
	local     bool // and has this host among its reals

	listened []endpoint // where it listens, or did when it had listeners

	reals  map[netip.AddrPort]*real // by Addr and Port; the sorry server too
	ring   *sched.Ring
	inRing []sched.Real // what it was built from
	since  uint64       // the cursor when it was published
	span   span
	entry  bpf.Service // what is published

	isFresh     bool   // it was not there before the Apply that is under way
	rowsChanged bool   // its rows are others than when the sweeper's pass began
	elsewhere   []bool // rows that have a connection at another real than theirs, in this pass
}

// real is one real server of a service, or its sorry server.
type real struct {
	conf        lb.Real
	slot        uint32
	gen         uint8
	isThere     bool
	near        Neighbor
	idle        int  // passes of the sweeper without a flow since it was taken out
	isUnchecked bool // not there only until it has been checked
	isInherited bool // near is what a predecessor left, nobody has been asked yet

	// The link of this host to r, and to every other real of the service, is
	// dead. Then r stays as it was: to say "refused" to the clients that come
	// first when the link is back would be wrong.
	stranded bool
}

// isReachable reports whether packets for r are sent.
func (r *real) isReachable() bool { return r.near.Err == "" || r.stranded }

// usable reports whether r may get new connections.
func (r *real) usable() bool { return r.isThere && r.conf.Weight > 0 && r.isReachable() }

// strand finds out whether all reals of a service are behind dead links of
// this host. Where other reals are within reach, they get the connections.
func (s *service) strand() {
	canStay := func(r *real) bool { return r.near.OwnLink && r.near.MAC != [6]byte{} }
	all := true
	for _, c := range s.conf.Reals {
		all = all && canStay(s.reals[c.Key()])
	}
	for _, c := range s.conf.Reals {
		s.reals[c.Key()].stranded = all
	}
}

// kind maps a scheduler to the packet path's: rr and wrr are one there.
var kind = map[lb.Scheduler]bpf.Scheduler{
	lb.RR: bpf.SchedRR, lb.WRR: bpf.SchedRR,
	lb.SH: bpf.SchedSH, lb.DH: bpf.SchedDH,
	lb.MH: bpf.SchedMH, lb.LC: bpf.SchedLC,
	lb.WLC: bpf.SchedWLC, lb.SED: bpf.SchedSED,
	lb.NQ: bpf.SchedNQ, lb.FO: bpf.SchedFO,
	lb.OVF: bpf.SchedOVF,
}

// findOrAddService finds or makes the index of a service, the at-th one.
func (b *Backend) findOrAddService(at int, conf *lb.Service, u *undo) (*service, error) {
	if at < len(b.order) && b.order[at].conf.Name == conf.Name && b.order[at].isThere {
		return b.order[at], nil
	}
	if s, ok := b.services[conf.Name]; ok {
		return s, nil
	}
	i := b.freeIndex
	for i < bpf.Services && b.byIndex[i] != nil {
		i++
	}
	if b.freeIndex = i; i == bpf.Services {
		return nil, fmt.Errorf("service %s: too many services (at most %d)", conf.Name, bpf.Services)
	}
	if err := b.fail("claim"); err != nil {
		return nil, fmt.Errorf("service %s: %w", conf.Name, err)
	}
	l := &b.dp.Labels[i]
	s := &service{index: uint32(i), cookie: l.Cookie + bpf.Services, isNew: true, reals: map[netip.AddrPort]*real{}}
	if l.Cookie == 0 {
		s.cookie = uint32(i) + bpf.Services
	}
	*l = bpf.Label{Cookie: s.cookie, Mark: conf.Mark, Name: labelOf(conf.Name)}
	b.dp.Cursors[i] = bpf.Cursor{}
	b.services[conf.Name], b.byIndex[i] = s, s
	u.add(func() {
		if b.byIndex[i] == s {
			b.forget(conf.Name, s)
		}
	})
	return s, nil
}

// placeReals gives the new reals of s a slot, and those that returned theirs
// back. No real is removed yet.
func (b *Backend) placeReals(s *service) error {
	for _, r := range s.conf.Reals {
		if err := b.placeReal(s, r); err != nil {
			return err
		}
	}
	b.hasNAT = b.hasNAT || slices.ContainsFunc(s.conf.Absent, func(r lb.Real) bool { return r.Forward == lb.NAT })
	sorry := lb.Real{Addr: s.conf.Sorry, Weight: 1, Forward: s.conf.SorryForward, Encap: s.conf.SorryEncap}
	if s.conf.Sorry.IsValid() && !slices.ContainsFunc(s.conf.Reals, sorry.Same) {
		return b.placeReal(s, sorry)
	}
	return nil
}

func (b *Backend) placeReal(s *service, conf lb.Real) error {
	r, ok := s.reals[conf.Key()]
	if !ok {
		slot, err := b.takeSlot()
		if err != nil {
			return fmt.Errorf("service %s: real %s: %w", s.conf.Name, conf.Addr, err)
		}
		r = &real{slot: slot, gen: b.dp.Reals[slot].TenantGeneration()}
		s.reals[conf.Key()] = r
	}
	r.conf = conf
	r.isThere, r.idle = true, 0
	b.hasNAT = b.hasNAT || conf.Forward == lb.NAT
	b.lookUp(r)
	return nil
}

// takeSlot takes a slot and makes it one of nobody's: of another generation,
// with nothing counted.
func (b *Backend) takeSlot() (uint32, error) {
	if err := b.fail("slot"); err != nil {
		return 0, err
	}
	slot, err := b.slots.take()
	if err != nil {
		return 0, err
	}
	if err := b.clearCounters(slot); err != nil {
		b.slots.give(slot)
		return 0, err
	}
	raw := &b.dp.Reals[slot]
	*raw = bpf.Real{Generation: (raw.TenantGeneration() + 1) & 15}
	b.dp.Loads[slot] = bpf.Load{}
	b.clearConnections(slot)
	return slot, nil
}

// lookUp asks where a real is. One that a predecessor had found stays where it was
// as long as it is only being asked: to its clients nothing has happened.
func (b *Backend) lookUp(r *real) {
	near := b.findWay(r.conf)
	moved := near.IfIndex != 0 && near.IfIndex != r.near.IfIndex
	if r.isInherited && near.Pending && !moved {
		return
	}
	if near.OwnLink && near.MAC == ([6]byte{}) {
		// Where it was, as long as it cannot be asked.
		near.MAC, near.Source, near.IfIndex, near.MTU, near.Device = r.near.MAC, r.near.Source, r.near.IfIndex, r.near.MTU, r.near.Device
		near.From, near.Gateway = r.near.From, r.near.Gateway
	}
	r.near, r.isInherited = near, false
}

// write puts a real into the table: everything else first, the first word
// last and at once.
func (b *Backend) write(s *service, r *real) {
	raw := &b.dp.Reals[r.slot]
	raw.Source = r.near.Source
	raw.MTU = r.mtu()
	raw.Ifindex = b.dp.Way(r.near.IfIndex)
	raw.Service, raw.Cookie = s.index, s.cookie
	b.dp.Addresses[r.slot] = bpf.AddressOf(r.conf.Addr)
	raw.Port, raw.Weight = bpf.PortWord(r.conf.Port), r.conf.Weight
	b.spread(s, r)
	b.limit(r)
	mac := r.near.MAC
	if mac == ([6]byte{}) {
		mac = raw.MAC // silent: its old flows are still sent there
	}
	method := methodOf(r.conf)
	if isTunnel(method) {
		b.dp.Tunnels[r.slot] = b.tunnelTo(r)
	}
	if loader.IsTagged(raw.Ifindex) {
		method |= bpf.ForwardTagged
	}
	publishNextHop(raw, nextHopWord(mac, r.gen, method, b.flags(s, r, mac)))
}

// addressOf is the address of the real in a slot.
func (b *Backend) addressOf(slot uint32) netip.Addr { return b.dp.Addresses[slot].Addr() }

func (b *Backend) flags(s *service, r *real, mac [6]byte) uint8 {
	switch {
	case !r.isThere && r.isUnchecked:
		return bpf.RealReserved | bpf.RealUnchecked
	case !r.isThere:
		return bpf.RealReserved
	}
	var f uint8
	if r.near.Local || mac != ([6]byte{}) {
		f |= bpf.RealThere
	}
	if r.usable() {
		f |= bpf.RealUsable
	}
	if r.near.Local {
		f |= bpf.RealLocal
	}
	if !r.isReachable() {
		f |= bpf.RealSilent
	}
	if b.filtered(&s.conf) {
		f |= bpf.RealFiltered
	}
	if r.conf.Upper != 0 {
		f |= bpf.RealLimited
	}
	if !slices.ContainsFunc(s.conf.Reals, r.conf.Same) {
		f |= bpf.RealSorry
	}
	return f
}

func (b *Backend) filtered(s *lb.Service) bool {
	return len(s.Deny)+len(s.Allow)+len(b.state.Deny)+len(b.state.Allow) > 0
}

// isAwaited reports whether a real of a service, or its sorry server, may turn
// out to be usable: it is being looked for, or has not been checked yet.
func (s *service) isAwaited() bool {
	isLookedFor := func(c lb.Real) bool { return c.Weight > 0 && s.reals[c.Key()].near.Pending }
	isUnchecked := func(c lb.Real) bool { return c.Weight > 0 && c.Unchecked }
	isSorryLookedFor := s.conf.Sorry.IsValid() && s.reals[netip.AddrPortFrom(s.conf.Sorry, 0)].near.Pending
	return isSorryLookedFor || slices.ContainsFunc(s.conf.Reals, isLookedFor) || slices.ContainsFunc(s.conf.Absent, isUnchecked)
}

// describe fills the rest of the service's entry.
func (b *Backend) describe(s *service) {
	e := &s.entry
	e.Scheduler = kind[s.conf.Scheduler]
	e.Cookie = s.cookie
	e.Sorry = bpf.NoSlot
	if s.conf.Sorry.IsValid() {
		r := s.reals[netip.AddrPortFrom(s.conf.Sorry, 0)]
		if r.near.Err == "" {
			e.Sorry = r.slot
		}
	}
	e.Flags = 0
	set := func(on bool, f bpf.ServiceFlag) {
		if on {
			e.Flags |= f
		}
	}
	set(s.conf.Flags&(lb.SHPort|lb.MHPort) != 0, bpf.ServicePort)
	set(s.conf.Flags&(lb.SHFallback|lb.MHFallback) != 0, bpf.ServiceFallback)
	b.persistent = b.persistent || s.conf.Persistence.Enabled()
	set(s.conf.Persistence.Enabled(), bpf.ServicePersistent)
	set(s.conf.OnePacket, bpf.ServiceOnePacket)
	set(b.filtered(&s.conf), bpf.ServiceFiltered)
	set(slices.ContainsFunc(s.conf.Reals, func(r lb.Real) bool { return r.Upper != 0 }), bpf.ServiceLimited)
	set(e.RingSize == 0 && e.Sorry == bpf.NoSlot && s.isAwaited(), bpf.ServiceAwaited)
	e.PersistTicks = ticks(s.conf.Persistence.Timeout)
	e.PersistMask = mask(s.conf.Persistence.Prefix)
	if s.conf.IsIPv6() { // a prefix length
		e.PersistMask = uint32(s.conf.Persistence.Prefix)
		if e.PersistMask == 0 {
			e.PersistMask = 128
		}
	}
}

// mask is a netmask in network byte order; 0 means the whole address.
func mask(prefix int) uint32 {
	if prefix <= 0 || prefix >= 32 {
		return ^uint32(0)
	}
	m := ^uint32(0) << (32 - prefix)
	return bpf.IPv4Word(netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}))
}

// ticks is a duration on the packet path's clock, rounded up: nothing ends
// early.
func ticks(d time.Duration) uint32 {
	hz := loader.HZ()
	tick := time.Second * time.Duration(uint64(1)<<loader.TickShift(hz)) / time.Duration(hz)
	return uint32((d + tick - 1) / tick)
}

// ticksDuration is how long so many ticks take.
func ticksDuration(t int64) time.Duration {
	hz := loader.HZ()
	return time.Duration(t) * (time.Second * time.Duration(uint64(1)<<loader.TickShift(hz)) / time.Duration(hz))
}
