package xdp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Apply puts a whole state into the half that is not in force and publishes it
// with one store. It is idempotent; what is unchanged (rings, counters,
// positions) stays as it is. If no service has changed, everything is written
// again and every real's MAC looked up, which repairs what others changed;
// else only what has.
//
// After an error that names services, these are as they were before and the
// others are as s says; after any other error everything is as it was.
func (b *Backend) Apply(ctx context.Context, s lb.State) error {
	for i := range s.Services {
		if err := supports(s.Services[i], b.ipv6); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// Rings that change are laid beside those in force. Where there is no space
	// for all of them at a time, what is published in one round makes room for
	// the next one.
	for remaining := len(s.Services) + 1; ; {
		refused, late, err := b.applyOnce(ctx, s)
		if err != nil {
			return err
		}
		if len(refused) == 0 {
			return late
		}
		if len(refused) < remaining && slices.ContainsFunc(refused, isNoRingSpace) {
			remaining = len(refused)
			continue
		}
		if !slices.ContainsFunc(refused, isNoRoom) {
			return errors.Join(joinRefusals(refused), late)
		}
		if grown, err := b.grow(s.Services); !grown {
			return errors.Join(joinRefusals(refused), err, late)
		}
		remaining = len(s.Services) + 1
	}
}

func isNoRingSpace(err error) bool { return errors.Is(err, errNoRingSpace) }

func isNoRoom(err error) bool { return isNoRingSpace(err) || errors.Is(err, errNoSlots) }

// joinRefusals is one error of many that are likely to say the same.
func joinRefusals(refused []error) error {
	if len(refused) == 1 {
		return refused[0]
	}
	return fmt.Errorf("%w (and %d more services)", refused[0], len(refused)-1)
}

// applyOnce applies s except for the services that it refuses, each of which
// stays what it was. After err everything does; late is what went wrong when s
// was in force.
func (b *Backend) applyOnce(ctx context.Context, s lb.State) (refused []error, late, err error) {
	unplugged := b.dp.Refresh(ctx) // reported at the end: the other interfaces are served
	b.graceRunning.Wait()          // the half that is not in force, and retired rings, are free from here on
	for _, r := range b.ringsInGrace {
		b.rings.give(r)
	}
	b.ringsInGrace = b.ringsInGrace[:0]
	before, order := b.state, b.order
	restoreNames := b.renameServices(s.Services)
	b.state = s
	b.state.Services = slices.Clone(s.Services)
	todo := b.prepareServices(&before)
	half := 1 - b.dp.Settings.Half&1
	err = b.layOut(half, todo.all)
	if err == nil {
		err = b.addFilters()
	}
	if err != nil {
		todo.undo.run()
		restoreNames()
		b.state, b.order = before, order
		b.revision++
		_ = b.addFilters() // b.filters is what the trie holds: the next Apply tries again
		_ = b.removeFilters()
		return nil, nil, err
	}
	b.publish(half, todo)
	b.applied = true
	return todo.refused, errors.Join(b.removeFilters(), unplugged), nil
}

// publish makes packets see what has been prepared. Nothing here can fail.
func (b *Backend) publish(half uint32, todo work) {
	b.applySettings()
	b.applyInterfaces(todo.all || !b.applied)
	for _, s := range todo.services {
		for _, r := range s.reals {
			if r.isThere {
				b.write(s, r)
			}
		}
	}
	atomic.StoreUint32(&b.dp.Settings.Half, half)
	b.graceRunning.Go(b.grace) // nobody waits for it now: a takeover would
	b.ringsInGrace, b.ringsToRetire = append(b.ringsInGrace, b.ringsToRetire...), b.ringsToRetire[:0]
	b.removeGone(todo.services)
	for _, s := range todo.services { // not before: what a failed Apply prepared was written nowhere
		s.isWritten = true
	}
	b.neighVersion = todo.neighVersion
}

// removeGone takes away what the new state no longer has. Slots stay
// reserved while flows live: a real that returns regains them.
func (b *Backend) removeGone(changed []*service) {
	for _, s := range b.byIndex {
		if s != nil && s.inApply != b.applies {
			b.retireRing(s)
			s.isThere = false
			b.removeReals(s)
		}
	}
	for _, s := range changed {
		b.removeReals(s)
	}
}

// retireRing gives the ring of a removed service up: no listener leads to it
// any more, and a service that returns gets a new one.
func (b *Backend) retireRing(s *service) {
	b.ringsInGrace = append(b.ringsInGrace, s.span)
	s.span, s.ring, s.inRing = span{}, nil, nil
	s.entry.Ring, s.entry.RingSize, s.entry.Rows = 0, 0, 0
}

func (b *Backend) removeReals(s *service) {
	if s.isThere && !s.conf.Sorry.IsValid() && len(s.reals) == len(s.conf.Reals) {
		return // they are the same: each of the configuration is there
	}
	for k, r := range s.reals {
		sorry := s.conf.Sorry.IsValid() && k == netip.AddrPortFrom(s.conf.Sorry, 0)
		if s.isThere && (sorry || slices.ContainsFunc(s.conf.Reals, r.conf.Same)) {
			continue
		}
		isUnchecked := s.isThere && slices.ContainsFunc(s.conf.Absent, func(c lb.Real) bool { return c.Unchecked && c.Key() == k })
		if r.isThere || r.isUnchecked != isUnchecked {
			r.isThere, r.isUnchecked = false, isUnchecked
			b.write(s, r)
		}
	}
}
