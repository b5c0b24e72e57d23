package xdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Apply lays a whole state out and publishes it with one store. It is
// idempotent; what is unchanged (rings, counters, positions) stays as it is.
// It looks every real's MAC up again, so it is also what follows a change on
// the segment, and it rewrites the tables, so it repairs what others changed.
func (b *Backend) Apply(_ context.Context, s lb.State) error {
	for _, svc := range s.Services {
		if err := Supports(svc); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.state
	b.state = s.Clone()
	if err := b.applyLocked(); err != nil {
		b.state = before
		return err
	}
	b.applied = true
	return nil
}

func (b *Backend) applyLocked() error {
	unplugged := b.dp.Refresh() // told at the end: the other interfaces are served
	b.settling.Wait()           // the half that is not in force, and retired rings, are free from here on
	for _, r := range b.retired {
		b.rings.give(r)
	}
	b.retired = b.retired[:0]
	if err := b.prepareServices(); err != nil {
		return err
	}
	half := 1 - b.dp.Settings.Half&1
	if err := b.layOut(half); err != nil {
		return err
	}
	if err := b.addFilters(); err != nil {
		return err
	}
	b.applySettings()
	b.applyInterfaces()
	for _, s := range b.services {
		for _, r := range s.reals {
			if r.there {
				b.write(s, r)
			}
		}
	}
	atomic.StoreUint32(&b.dp.Settings.Half, half)
	b.settling.Go(b.grace) // nobody waits for it now: a takeover would
	b.retired, b.retiring = append(b.retired, b.retiring...), b.retiring[:0]
	b.removeGone()
	return errors.Join(b.removeFilters(), unplugged)
}

// prepareServices claims indices, settles reals and lays rings: of the
// services that changed, or, when none did, of all. That is the periodic pass,
// which mends what somebody else broke.
func (b *Backend) prepareServices() error {
	var changed, all []*service
	for _, conf := range b.state.Services {
		s, err := b.claim(conf)
		if err != nil {
			return err
		}
		if !b.unchanged(s, conf) {
			s.conf, s.settled = conf, false
			changed = append(changed, s)
		}
		all = append(all, s)
	}
	if len(changed) == 0 {
		changed = all
	}
	for _, s := range changed {
		if !s.there { // a service that returns has its flows, but starts anew
			s.ring, s.inRing = nil, nil
		}
		s.there = true
		if err := b.settle(s, s.conf); err != nil {
			return err
		}
		if err := b.layRing(s); err != nil {
			return err
		}
		b.describe(s)
		s.settled, s.filtered, s.local = true, b.filtered(s.conf), b.hasLocal(s)
	}
	return nil
}

// unchanged tells whether preparing a service again would change nothing: of
// ten thousand services, few do. It looks up its reals' MACs.
func (b *Backend) unchanged(s *service, conf lb.Service) bool {
	if !s.settled || !s.there || s.filtered != b.filtered(conf) || !sameService(&s.conf, &conf) {
		return false
	}
	for _, r := range s.reals {
		if r.there && r.near != b.neigh.Lookup(r.conf.Addr) {
			return false
		}
	}
	return s.local == b.hasLocal(s)
}

// hasLocal tells whether this host is one of the service's reals: also one
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
		slices.Equal(a.Listeners, b.Listeners) && slices.Equal(a.Reals, b.Reals) && slices.Equal(a.Absent, b.Absent) &&
		slices.Equal(a.Deny, b.Deny) && slices.Equal(a.Allow, b.Allow)
}

// removeGone takes away what the new state no longer has. Slots stay
// reserved while flows live: a real that returns regains them.
func (b *Backend) removeGone() {
	names := make(map[string]bool, len(b.state.Services))
	for _, s := range b.state.Services {
		names[s.Name] = true
	}
	for name, s := range b.services {
		if !names[name] {
			s.there = false
		}
		if s.there && !s.conf.Sorry.IsValid() && len(s.reals) == len(s.conf.Reals) {
			continue // they are the same: each of the configuration is there
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
}

// layOut writes VIPs, ports, ranges and services into one half.
func (b *Backend) layOut(half uint32) error {
	l := layout{b: b, half: half}
	l.clear()
	for _, s := range b.services { // those of live connections that are gone, too
		b.dp.Services[half*numServices+s.index] = s.entry
	}
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
	return l.finish()
}

func (b *Backend) applySettings() {
	s := b.dp.Settings
	t := b.state.Timeouts.WithDefaults()
	for state, d := range map[loader.RawFlowState]uint32{
		loader.RawFlowStateSTATE_SYN_RECV:    ticks(synRecvTimeout),
		loader.RawFlowStateSTATE_ESTABLISHED: ticks(t.TCP),
		loader.RawFlowStateSTATE_FIN_WAIT:    ticks(t.TCPFin),
		loader.RawFlowStateSTATE_TIME_WAIT:   ticks(timeWaitTimeout),
		loader.RawFlowStateSTATE_CLOSE:       ticks(closeTimeout),
		loader.RawFlowStateSTATE_UDP:         ticks(t.UDP),
		loader.RawFlowStateSTATE_BUSY:        0xffff,
	} {
		s.Timeout[state] = uint16(min(d, maxTicks))
	}
	s.Timeout[stateBusy] = 0xffff
	var f loader.RawSetting
	if b.state.SloppyTCP {
		f |= loader.RawSettingSETTING_SLOPPY_TCP
	}
	if b.state.KeepNodestConn {
		f |= loader.RawSettingSETTING_KEEP_NODEST
	}
	if b.state.ExpireQuiescentTempl {
		f |= loader.RawSettingSETTING_EXPIRE_QUIESCENT
	}
	if len(b.state.Deny)+len(b.state.Allow) > 0 {
		f |= loader.RawSettingSETTING_GLOBAL_FILTER
	}
	s.Flags = f
}

// applyInterfaces writes who the peers are. The interfaces' own MACs are the
// loader's.
func (b *Backend) applyInterfaces() {
	for _, a := range b.dp.Attachments {
		i := &b.dp.Interfaces[a.Slot]
		var now []loader.RawPeer
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
func (b *Backend) peer(p netip.Addr, index int, known []loader.RawPeer) (raw loader.RawPeer, ok bool) {
	if !p.Is4() {
		return raw, false
	}
	near := b.neigh.Lookup(p)
	if near.Pending && (near.IfIndex == 0 || near.IfIndex == index) {
		i := slices.IndexFunc(known, func(k loader.RawPeer) bool { return k.Addr == be32(p) })
		if i < 0 {
			return raw, false
		}
		return known[i], true
	}
	raw.Addr = be32(p)
	copy(raw.Mac[:], near.MAC[:])
	return raw, near.MAC != ([6]byte{}) && near.IfIndex == index
}

var errTooManyPorts = errors.New("too many listeners meet in one place of the port table")
