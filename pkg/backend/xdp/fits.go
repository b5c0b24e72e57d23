package xdp

import (
	"fmt"
	"net/netip"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/sched"
)

// Fits reports what of a state is too large for the packet path's tables: nil
// if all of it fits, with every real usable. It touches nothing, so that a
// configuration can be refused before it is in force.
func Fits(s lb.State) error {
	if n := len(s.Services); n > bpf.Services {
		return fmt.Errorf("%d services (at most %d)", n, bpf.Services)
	}
	var n numbers
	n.init()
	l := newLayout(layout{
		vipLines: make([]bpf.VIPLine, bpf.VIPLines), portLines: make([]bpf.PortLine, bpf.PortLines),
		ranges: make([]bpf.Range, bpf.Ranges), numbers: &n,
	}, &s)
	for i := range s.Services {
		for _, lis := range s.Services[i].Listeners {
			if err := l.addListener(lis, uint32(i), false); err != nil {
				return fmt.Errorf("service %s: %s: %w", s.Services[i].Name, lis, err)
			}
		}
	}
	if err := l.addBareVIPs(s); err != nil {
		return err
	}
	if err := l.finish(); err != nil {
		return err
	}
	if err := fitsReplies(s.Services, &n); err != nil {
		return err
	}
	return fitsReals(s.Services)
}

// fitsReplies reports whether the replies of all reals by NAT have a place.
func fitsReplies(services []lb.Service, n *numbers) (err error) {
	var all []bpf.Reply
	for i := range services {
		if all, err = appendReplies(all, &services[i], n, netip.Addr.IsLoopback); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	return placeReplies(make([]bpf.ReplyLine, bpf.ReplyLines), all)
}

// fitsReals reports whether reals and rings fit the largest tables.
func fitsReals(services []lb.Service) error {
	_, err := need(services)
	return err
}

// RoomFor is the room that the tables of a packet path need for services, with
// what they may grow by in the meantime. What does not fit the largest tables,
// or cannot be scheduled, is left out: see [Fits].
func RoomFor(services []lb.Service) loader.Room {
	n, _ := need(services)
	return loader.RoomFor(n.Reals, n.RingLines)
}

// need counts slots of reals and lines of rings. A ring that changes is laid
// beside the one in force: the largest needs its lines twice.
func need(services []lb.Service) (n loader.Room, err error) {
	lines, largest := 0, 0
	for i := range services {
		conf := &services[i]
		ring, err := ringLines(conf)
		if err != nil {
			return n, fmt.Errorf("service %s: %w", conf.Name, err)
		}
		reals := n.Reals + len(conf.Reals)
		if conf.Sorry.IsValid() {
			reals++
		}
		lines += int(ring)
		largest = max(largest, int(ring))
		if reals > bpf.Reals {
			return n, fmt.Errorf("service %s: %w (at most %d, sorry servers included)", conf.Name, errNoSlots, bpf.Reals)
		}
		if lines+largest > bpf.MostRingLines {
			return n, fmt.Errorf("service %s: %w", conf.Name, errNoRingSpace)
		}
		n = loader.Room{Reals: reals, RingLines: lines + largest}
	}
	return n, nil
}

// ringLines is how many lines the ring of a service takes.
func ringLines(conf *lb.Service) (uint32, error) {
	in := make([]sched.Real, 0, len(conf.Reals))
	for i, r := range conf.Reals {
		in = append(in, sched.Real{ID: uint32(i), Weight: r.Weight, Addr: r.Addr, Port: r.Port})
	}
	ring, err := sched.Build(string(conf.Scheduler), sched.Flags(conf.Flags), in, nil, 0)
	if err != nil {
		return 0, err
	}
	if conf.KeepsNoFlows() {
		return linesOfRows(len(ring.Slots)), nil
	}
	return linesOf(ring), nil
}
