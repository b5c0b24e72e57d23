package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// Grow makes room for more, as a start over maps of another size does: what the
// maps hold is copied, and the programs of the interfaces are exchanged for
// programs that know the new maps. Packets are forwarded meanwhile, but those of
// the moment between copy and exchange are not in the counters. A trace ends.
// On error everything is as it was.
//
// The slices of d that are larger afterwards are others: nobody may use them
// during the call.
func (d *Datapath) Grow(room Room) error {
	if d.opts.Detached {
		return errors.New("a packet path that is attached to nothing cannot grow")
	}
	if d.tracer != nil {
		if err := d.tracer.Stop(); err != nil {
			return fmt.Errorf("end the trace: %w", err)
		}
	}
	o := d.opts
	o.Room, o.locked = d.Room().Union(room), d.lock
	next, err := Open(context.Background(), o)
	if err != nil {
		return fmt.Errorf("make room for %d reals and %d lines of rings: %w", o.Room.Reals, o.Room.RingLines, err)
	}
	next.opts.locked = nil
	d.exchangeFor(next)
	next.release() // what d had
	return nil
}

// exchangeFor exchanges what the packet path has made anew with that of next.
// What others use without a lock, above all leases and clock, stays.
func (d *Datapath) exchangeFor(next *Datapath) {
	grown := map[string]bool{}
	for _, name := range slices.Concat(mapsOfReals, mapsOfRings) {
		grown[name] = true
	}
	theirs := map[string]**ebpf.Map{}
	_ = next.eachMap(func(name string, m **ebpf.Map) error { theirs[name] = m; return nil })
	_ = d.eachMap(func(name string, m **ebpf.Map) error {
		if other := theirs[name]; grown[name] {
			*m, *other = *other, *m
			d.memory[*m], next.memory[*other] = next.memory[*m], d.memory[*other]
			delete(next.memory, *m)
			delete(d.memory, *other)
		}
		return nil
	})
	d.Reals, next.Reals = next.Reals, d.Reals
	d.Addresses, next.Addresses = next.Addresses, d.Addresses
	d.Tunnels, next.Tunnels = next.Tunnels, d.Tunnels
	d.Loads, next.Loads = next.Loads, d.Loads
	d.Shares, next.Shares = next.Shares, d.Shares
	d.Rings, next.Rings = next.Rings, d.Rings
	d.spec, next.spec = next.spec, d.spec
	d.opts.Room = next.opts.Room
	d.program, next.program = next.program, d.program
	d.ownMAC, next.ownMAC = next.ownMAC, d.ownMAC
	d.program6, next.program6 = next.program6, d.program6
	d.ownMAC6, next.ownMAC6 = next.ownMAC6, d.ownMAC6
	d.links, next.links = next.links, d.links
	d.absorb, next.absorb = next.absorb, d.absorb
	d.explainers, next.explainers = next.explainers, d.explainers
}
