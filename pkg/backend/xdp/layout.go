package xdp

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// layout fills one half of the lookup tables (bpf/admit.h and bpf/listen.h
// read them). It is
// pure but for these tables and the numbers.
type layout struct {
	vipLines  []bpf.VIPLine // of the half
	portLines []bpf.PortLine
	ranges    []bpf.Range
	numbers   *numbers

	order    []netip.Addr
	vips     map[netip.Addr]*vipPlan
	roles    map[netip.Addr]*lb.VIP // what the state says of the VIPs
	hasPeers bool
}

// newLayout empties the tables for the VIPs of a state.
func newLayout(l layout, s *lb.State) *layout {
	l.vips = make(map[netip.Addr]*vipPlan, len(s.Services))
	l.roles = make(map[netip.Addr]*lb.VIP, len(s.VIPs))
	for i := range s.VIPs {
		v := &s.VIPs[i]
		l.roles[v.Addr] = v
	}
	l.hasPeers = len(s.Peers) > 0
	clear(l.vipLines)
	clear(l.portLines)
	return &l
}

// vipPlan is what is known of one VIP before it is written.
type vipPlan struct {
	tcp, udp             uint16
	tcpRanges, udpRanges []portRange
	hasLocal             bool
	isStateless          bool
}

type portRange struct {
	first, last uint16
	service     uint32
}

// layOut writes services into one half, and, if it has another layout of them
// or all is to be written, VIPs, ports and ranges.
func (b *Backend) layOut(half uint32, all bool) error {
	for _, s := range b.byIndex { // those of live connections that are gone, too
		if s != nil {
			b.dp.Services[half*bpf.Services+s.index] = s.entry
		}
	}
	if err := b.layOutReplies(half); err != nil {
		return err
	}
	if b.laid[half] == b.revision && !all {
		return nil
	}
	b.laid[half] = 0
	l := newLayout(layout{
		vipLines:  b.dp.VIPs[half*bpf.VIPLines : (half+1)*bpf.VIPLines],
		portLines: b.dp.Ports[half*bpf.PortLines : (half+1)*bpf.PortLines],
		ranges:    b.dp.Ranges[half*bpf.Ranges : (half+1)*bpf.Ranges],
		numbers:   &b.numbers,
	}, &b.state)
	for i := range b.state.Services {
		if err := b.layOutListeners(l, &b.state.Services[i]); err != nil {
			return err
		}
	}
	for _, conf := range b.state.Services {
		if len(conf.Listeners) == 0 {
			l.addDrained(b.services[conf.Name])
		}
	}
	if err := l.addBareVIPs(b.state); err != nil {
		return err
	}
	if err := b.fail("vips"); err != nil {
		return err
	}
	if err := l.finish(); err != nil {
		return err
	}
	l.keepNumbers()
	b.laid[half] = b.revision
	return nil
}

func (b *Backend) layOutListeners(l *layout, conf *lb.Service) error {
	s := b.services[conf.Name]
	if len(conf.Listeners) > 0 {
		s.listened = make([]endpoint, 0, len(conf.Listeners))
	}
	for _, lis := range conf.Listeners {
		s.listened = append(s.listened, endpoint{lis.Addr, lis.Proto})
		l.at(lis.Addr).isStateless = conf.KeepsNoFlows() || l.at(lis.Addr).isStateless
		err := b.fail("listener")
		if err == nil {
			err = l.addListener(lis, s.index, s.local)
		}
		if err != nil {
			return fmt.Errorf("service %s: %s: %w", conf.Name, lis, err)
		}
	}
	return nil
}

// at is the plan of a VIP, a new one if there is none yet.
func (l *layout) at(vip netip.Addr) *vipPlan {
	p, ok := l.vips[vip]
	if !ok {
		p = &vipPlan{}
		l.vips[vip] = p
		l.order = append(l.order, vip)
	}
	return p
}

// addBareVIPs notes the VIPs of VRRP that no service listens on: who is silent
// about a VIP, because another director owns it or a lease is over, must be
// so whether it has services or not. It comes after every listener.
func (l *layout) addBareVIPs(s lb.State) error {
	for vip := range bareVIPs(s) {
		p := l.at(vip)
		if p.tcp|p.udp != 0 {
			continue
		}
		// Any number: without one its place in the table would be free.
		n, err := l.numbers.get(endpoint{vip, lb.TCP})
		if err != nil {
			return err
		}
		p.tcp = n
	}
	return nil
}

// bareVIPs goes through the VIPs that the packet path has to know of even if no
// service listens on them. (Neighbour discovery is not its business.)
func bareVIPs(s lb.State) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, v := range s.VIPs {
			if (v.Standby || v.Leased) && !yield(v.Addr) {
				return
			}
		}
	}
}

// addListener notes a listener; one of a single port is written at once. Every port
// is a range like others, the widest.
func (l *layout) addListener(lis lb.Listener, service uint32, isLocal bool) error {
	p := l.at(lis.Addr)
	p.hasLocal = p.hasLocal || isLocal
	n, err := l.numbers.get(endpoint{lis.Addr, lis.Proto})
	if err != nil {
		return err
	}
	ranges := &p.tcpRanges
	if lis.Proto == lb.UDP {
		p.udp, ranges = n, &p.udpRanges
	} else {
		p.tcp = n
	}
	switch {
	case lis.EveryPort():
		*ranges = append(*ranges, portRange{0, 0xffff, service})
	case lis.Width() == 1:
		return l.addPort(n, lis.First, service)
	default:
		*ranges = append(*ranges, portRange{lis.First, lis.Last, service})
	}
	return nil
}

// addPort writes one port of a VIP. Of two services that listen there, one of
// which stays as it was while the other has changed, the first one gets it.
func (l *layout) addPort(vip, port uint16, service uint32) error {
	p := bpf.PortWord(port)
	first := bpf.FirstPortLine(vip, port)
	for i := range uint32(bpf.Probes) {
		line := &l.portLines[(first+i)%bpf.PortLines]
		for w := range line.Way {
			switch {
			case line.Way[w].VIP == vip && line.Way[w].Port == p:
				return nil
			case line.Way[w].VIP == 0:
				line.Way[w].Service, line.Way[w].Port, line.Way[w].VIP = service, p, vip
				return nil
			}
		}
	}
	return errTooManyPorts
}

// finish writes the ranges and the VIPs. By the order of the lines where their searches
// begin, as replies are ([placeReplies]): thousands of addresses that are far apart fit.
func (l *layout) finish() error {
	slices.SortStableFunc(l.order, func(a, b netip.Addr) int { return cmp.Compare(bpf.FirstVIPLine(a), bpf.FirstVIPLine(b)) })
	at := uint32(0)
	for _, addr := range l.order {
		p := l.vips[addr]
		tcp, udp := flatten(p.tcpRanges), flatten(p.udpRanges)
		if int(at)+len(tcp)+len(udp) > bpf.Ranges || max(len(tcp), len(udp)) > 0xffff {
			return errors.New("too many port ranges (at most 65536)")
		}
		v := bpf.VIP{TCP: p.tcp, UDP: p.udp, Ranges: at, TCPRanges: uint16(len(tcp)), UDPRanges: uint16(len(udp))}
		v.Addr = bpf.AddressOf(addr)
		l.setFlags(&v, addr, p)
		for _, r := range append(tcp, udp...) {
			l.ranges[at] = bpf.Range{First: r.first, Last: r.last, Service: r.service}
			at++
		}
		if err := l.addVIP(v, addr); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) setFlags(v *bpf.VIP, addr netip.Addr, p *vipPlan) {
	if role := l.roles[addr]; role != nil {
		if role.Standby {
			v.Flags |= bpf.VIPStandby
		}
		if role.Leased {
			v.Flags |= bpf.VIPLeased
			v.Lease = uint16(role.Lease)
		}
	}
	if p.hasLocal && l.hasPeers {
		v.Flags |= bpf.VIPPeers
	}
	if p.isStateless {
		v.Flags |= bpf.VIPStateless
	}
}

func (l *layout) addVIP(v bpf.VIP, addr netip.Addr) error {
	if !l.writeVIP(v, bpf.FirstVIPLine(addr)) {
		return errors.New("too many VIPs meet in one place of the table (some 16000 VIPs fit, in many networks some 10000)")
	}
	return nil
}

// writeVIP writes a VIP into the first free way of the lines from first on that
// a search touches, and reports whether there was one.
func (l *layout) writeVIP(v bpf.VIP, first uint32) bool {
	for i := range uint32(bpf.Probes) {
		line := &l.vipLines[(first+i)%bpf.VIPLines]
		for w := range line.Way {
			if line.Way[w].TCP|line.Way[w].UDP == 0 {
				line.Way[w] = v
				return true
			}
		}
	}
	return false
}

var errTooManyPorts = errors.New("too many listeners meet in one place of the port table")
