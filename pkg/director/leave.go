package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// ErrNoLease is returned by [Director.Leave] for a backend that cannot fall
// silent by itself.
var ErrNoLease = errors.New("the backend knows no leases")

// Leave makes the backend serve the VIPs of this host, those that no VRRP
// instance owns, for grace and no longer: a daemon that starts by then goes on
// with them, without one the host forwards nothing and answers no ARP for
// them. Call it after Run has returned, before the backend is closed.
func (d *Director) Leave(ctx context.Context, grace time.Duration) error {
	leaser, ok := d.opt.Backend.(lb.Leaser)
	if !ok {
		return ErrNoLease
	}
	id := freeLease(d.out.Memory.Leases)
	if err := leaser.Renew(id, grace); err != nil {
		return fmt.Errorf("lease for a successor: %w", err)
	}
	state := d.out.State
	state.VIPs = leaseVIPs(state, id)
	if err := d.applyState(ctx, state); err != nil {
		return fmt.Errorf("lease for a successor: %w", err)
	}
	return nil
}

// freeLease is the lowest number that no instance has.
func freeLease(taken map[string]uint32) uint32 {
	used := map[uint32]bool{}
	for _, id := range taken {
		used[id] = true
	}
	var id uint32
	for used[id] {
		id++
	}
	return id
}

// leaseVIPs makes every VIP that this host owns at all times a leased one.
func leaseVIPs(s lb.State, id uint32) []lb.VIP {
	vips := slices.Clone(s.VIPs)
	known := make(map[netip.Addr]bool, len(vips))
	for i := range vips {
		known[vips[i].Addr] = true
		if vips[i].Owner == "" {
			vips[i].Leased, vips[i].Lease = true, id
		}
	}
	for _, svc := range s.Services {
		for _, l := range svc.Listeners {
			if !known[l.Addr] {
				known[l.Addr] = true
				vips = append(vips, lb.VIP{Addr: l.Addr, Leased: true, Lease: id})
			}
		}
	}
	return vips
}
