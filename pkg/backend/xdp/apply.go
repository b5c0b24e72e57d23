package xdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Apply puts a whole state into the half that is not in force and publishes it
// with one store. It is idempotent; what is unchanged (rings, counters,
// positions) stays as it is. If no service has changed, everything is written
// again and every real's MAC looked up, which repairs what others changed;
// else only what has.
func (b *Backend) Apply(_ context.Context, s lb.State) error {
	for i := range s.Services {
		if err := Supports(s.Services[i]); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.state
	b.state = s
	b.state.Services = slices.Clone(s.Services)
	if err := b.applyLocked(&before); err != nil {
		b.state = before
		b.layout++
		return err
	}
	b.applied = true
	return nil
}

func (b *Backend) applyLocked(before *lb.State) error {
	unplugged := b.dp.Refresh() // told at the end: the other interfaces are served
	b.settling.Wait()           // the half that is not in force, and retired rings, are free from here on
	for _, r := range b.retired {
		b.rings.give(r)
	}
	b.retired = b.retired[:0]
	todo, err := b.prepareServices(before)
	if err != nil {
		return err
	}
	half := 1 - b.dp.Settings.Half&1
	if err := b.layOut(half, todo.all); err != nil {
		return err
	}
	if err := b.addFilters(); err != nil {
		return err
	}
	b.applySettings()
	b.applyInterfaces()
	for _, s := range todo.services {
		for _, r := range s.reals {
			if r.there {
				b.write(s, r)
			}
		}
	}
	atomic.StoreUint32(&b.dp.Settings.Half, half)
	b.settling.Go(b.grace) // nobody waits for it now: a takeover would
	b.retired, b.retiring = append(b.retired, b.retiring...), b.retiring[:0]
	b.removeGone(todo.services)
	for _, s := range todo.services { // not before: what a failed Apply prepared was written nowhere
		s.settled = true
	}
	b.heardOf, b.generic = todo.heardOf, todo.generic
	return errors.Join(b.removeFilters(), unplugged)
}

// work is what an Apply has to do.
type work struct {
	services []*service // whose reals are to be written
	all      bool       // they are all, and VIPs and ports are to be laid out even if they are the same
	generic  bool       // some interface runs generic XDP
	heardOf  uint64     // the neighbours' version
}

// prepareServices claims indices, settles reals and lays rings: of the
// services that changed, or, when none did, of all. That is the periodic pass,
// which mends what somebody else broke.
func (b *Backend) prepareServices(before *lb.State) (work, error) {
	// Asked first: what changes meanwhile changes it.
	todo := work{heardOf: b.neigh.Version(), generic: b.anyGeneric()}
	b.passes++
	relaid := !sameBesides(before, &b.state) || len(before.Services) != len(b.state.Services)
	all := make([]*service, 0, len(b.state.Services))
	for i := range b.state.Services {
		conf := &b.state.Services[i]
		s, err := b.claim(i, conf)
		if err != nil {
			return todo, err
		}
		s.pass = b.passes
		all = append(all, s)
		relaid = relaid || before.Services[i].Name != conf.Name
		if b.unchanged(s, conf, todo.heardOf) {
			s.conf = *conf // the same, but what is compared next time may be the very same
			continue
		}
		relaid = relaid || !slices.Equal(before.Services[i].Listeners, conf.Listeners)
		s.conf, s.settled = *conf, false
		todo.services = append(todo.services, s)
	}
	b.order = all
	if len(todo.services) == 0 || todo.generic != b.generic {
		todo.services, todo.all = all, true
	}
	for _, s := range todo.services {
		local := s.local
		if err := b.prepare(s); err != nil {
			return todo, err
		}
		relaid = relaid || local != s.local
	}
	if relaid {
		b.layout++
	}
	return todo, nil
}

func (b *Backend) prepare(s *service) error {
	if !s.there { // a service that returns has its flows, but starts anew
		s.ring, s.inRing = nil, nil
	}
	s.there, s.settled = true, false
	if err := b.settle(s, s.conf); err != nil {
		return err
	}
	if err := b.layRing(s); err != nil {
		return err
	}
	b.describe(s)
	s.filtered, s.local = b.filtered(&s.conf), b.hasLocal(s)
	return nil
}

// sameBesides reports whether all is the same that VIPs are laid out by, besides
// the services.
func sameBesides(a, b *lb.State) bool {
	return slices.Equal(a.VIPs, b.VIPs) && slices.Equal(a.Peers, b.Peers)
}

// unchanged reports whether preparing a service again would change nothing: of
// ten thousand services, few do. It looks up its reals' MACs if some real's
// may have changed.
func (b *Backend) unchanged(s *service, conf *lb.Service, heardOf uint64) bool {
	if !s.settled || !s.there || s.filtered != b.filtered(conf) || !sameService(&s.conf, conf) {
		return false
	}
	if heardOf == b.heardOf {
		return true
	}
	for _, r := range s.reals {
		if r.there && r.near != b.neigh.Lookup(r.conf.Addr) {
			return false
		}
	}
	return s.local == b.hasLocal(s)
}

// hasLocal reports whether this host is one of the service's reals: also one
// that is ill by our own judgement, a peer's may be another.
func (b *Backend) hasLocal(s *service) bool {
	// Not s.reals: those that leave now are there, too.
	configured := func(c lb.Real) bool { return s.reals[c.Key()].near.Local }
	absent := func(c lb.Real) bool { return b.neigh.Lookup(c.Addr).Local }
	return slices.ContainsFunc(s.conf.Reals, configured) || slices.ContainsFunc(s.conf.Absent, absent)
}

// sameService compares what the packet path is told of a service.
func sameService(a, b *lb.Service) bool {
	return a.Name == b.Name && a.Mark == b.Mark && a.Scheduler == b.Scheduler && a.Flags == b.Flags &&
		a.OnePacket == b.OnePacket && a.Persistence == b.Persistence && a.Sorry == b.Sorry &&
		same(a.Listeners, b.Listeners) && same(a.Reals, b.Reals) && same(a.Absent, b.Absent) &&
		same(a.Deny, b.Deny) && same(a.Allow, b.Allow)
}

// same compares lists that are often one and the same.
func same[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// removeGone takes away what the new state no longer has. Slots stay
// reserved while flows live: a real that returns regains them.
func (b *Backend) removeGone(changed []*service) {
	for _, s := range b.byIndex {
		if s != nil && s.pass != b.passes {
			s.there = false
			b.removeReals(s)
		}
	}
	for _, s := range changed {
		b.removeReals(s)
	}
}

func (b *Backend) removeReals(s *service) {
	if s.there && !s.conf.Sorry.IsValid() && len(s.reals) == len(s.conf.Reals) {
		return // they are the same: each of the configuration is there
	}
	for k, r := range s.reals {
		sorry := s.conf.Sorry.IsValid() && k == netip.AddrPortFrom(s.conf.Sorry, 0)
		keep := s.there && (sorry || slices.ContainsFunc(s.conf.Reals, r.conf.Same))
		if !keep && r.there {
			r.there = false
			b.write(s, r)
		}
	}
}

// layOut writes services into one half, and, if it has another layout of them
// or all is to be written, VIPs, ports and ranges.
func (b *Backend) layOut(half uint32, all bool) error {
	for _, s := range b.byIndex { // those of live connections that are gone, too
		if s != nil {
			b.dp.Services[half*bpf.Services+s.index] = s.entry
		}
	}
	if b.laid[half] == b.layout && !all {
		return nil
	}
	b.laid[half] = 0
	l := layout{b: b, half: half}
	l.clear()
	for _, conf := range b.state.Services {
		s := b.services[conf.Name]
		if len(conf.Listeners) > 0 {
			s.heard = s.heard[:0]
		}
		for _, lis := range conf.Listeners {
			s.heard = append(s.heard, endpoint{lis.Addr, lis.Proto})
			if err := l.listen(lis, s.index); err != nil {
				return fmt.Errorf("service %s: %s: %w", conf.Name, lis, err)
			}
		}
	}
	for _, conf := range b.state.Services {
		if len(conf.Listeners) == 0 {
			l.drain(b.services[conf.Name])
		}
	}
	if err := l.bare(); err != nil {
		return err
	}
	if err := l.finish(); err != nil {
		return err
	}
	b.laid[half] = b.layout
	return nil
}

func (b *Backend) applySettings() {
	s := b.dp.Settings
	t := b.state.Timeouts.WithDefaults()
	for state, d := range map[bpf.FlowState]uint32{
		bpf.StateSynRecv:     ticks(synRecvTimeout),
		bpf.StateEstablished: ticks(t.TCP),
		bpf.StateFinWait:     ticks(t.TCPFin),
		bpf.StateTimeWait:    ticks(timeWaitTimeout),
		bpf.StateClose:       ticks(closeTimeout),
		bpf.StateUDP:         ticks(t.UDP),
		bpf.StateBusy:        0xffff,
	} {
		s.Timeout[state] = uint16(min(d, maxTicks))
	}
	s.Timeout[bpf.StateBusy] = 0xffff
	var f bpf.Setting
	if b.state.SloppyTCP {
		f |= bpf.SettingSloppyTCP
	}
	if b.state.ExpireNodestConn {
		f |= bpf.SettingExpireNodest
	}
	if b.state.ExpireQuiescentTempl {
		f |= bpf.SettingExpireQuiescent
	}
	if len(b.state.Deny)+len(b.state.Allow) > 0 {
		f |= bpf.SettingGlobalFilter
	}
	s.Flags = f
}

// applyInterfaces writes who the peers are. The interfaces' own MACs are the
// loader's.
func (b *Backend) applyInterfaces() {
	for _, a := range b.dp.Attachments {
		i := &b.dp.Interfaces[a.Slot]
		var now []bpf.Peer
		for _, p := range b.state.Peers {
			if raw, ok := b.peer(p, a.Index, i.Peer[:]); ok {
				now = append(now, raw)
			}
		}
		clear(i.Peer[copy(i.Peer[:], now):])
	}
}

// peer is how a fellow director is known on an interface. As long as it is
// only being asked for its MAC, what was known before stays.
func (b *Backend) peer(p netip.Addr, index int, known []bpf.Peer) (raw bpf.Peer, ok bool) {
	if !p.Is4() {
		return raw, false
	}
	near := b.neigh.Lookup(p)
	if near.Pending && (near.IfIndex == 0 || near.IfIndex == index) {
		i := slices.IndexFunc(known, func(k bpf.Peer) bool { return k.Addr == bpf.IPv4Word(p) })
		if i < 0 {
			return raw, false
		}
		return known[i], true
	}
	raw.Addr = bpf.IPv4Word(p)
	copy(raw.MAC[:], near.MAC[:])
	return raw, near.MAC != ([6]byte{}) && near.IfIndex == index
}

var errTooManyPorts = errors.New("too many listeners meet in one place of the port table")
