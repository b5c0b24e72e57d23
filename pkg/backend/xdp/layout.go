package xdp

import (
	"cmp"
	"errors"
	"iter"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// layout writes one half of the lookup tables (bpf/admit.h and bpf/listen.h read them).
type layout struct {
	b     *Backend
	half  uint32
	order []netip.Addr
	vips  map[netip.Addr]*vipPlan

	roles map[netip.Addr]*lb.VIP // what the state says of the VIPs
}

// vipPlan is what is known of one VIP before it is written.
type vipPlan struct {
	tcp, udp             uint16
	tcpRanges, udpRanges []portRange
	hasLocal             bool
}

type portRange struct {
	first, last uint16
	service     uint32
}

func (l *layout) clear() {
	l.vips = make(map[netip.Addr]*vipPlan, len(l.b.state.Services))
	l.roles = make(map[netip.Addr]*lb.VIP, len(l.b.state.VIPs))
	for i := range l.b.state.VIPs {
		v := &l.b.state.VIPs[i]
		l.roles[v.Addr] = v
	}
	clear(l.b.dp.VIPs[l.half*bpf.VIPLines : (l.half+1)*bpf.VIPLines])
	clear(l.b.dp.Ports[l.half*bpf.PortLines : (l.half+1)*bpf.PortLines])
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

// bare notes the VIPs of VRRP that no service listens on: who is silent
// about a VIP, because another director owns it or a lease is over, must be
// so whether it has services or not. It comes after every listener.
func (l *layout) bare() error {
	for vip := range bare(l.b.state) {
		p := l.at(vip)
		if p.tcp|p.udp != 0 {
			continue
		}
		// Any number: without one its place in the table would be free.
		n, err := l.b.numbers.get(endpoint{vip, lb.TCP})
		if err != nil {
			return err
		}
		p.tcp = n
	}
	return nil
}

// bare goes through the VIPs that the packet path has to know of even if no
// service listens on them. (Neighbour discovery is not its business.)
func bare(s lb.State) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, v := range s.VIPs {
			if (v.Standby || v.Leased) && v.Addr.Is4() && !yield(v.Addr) {
				return
			}
		}
	}
}

// listen notes a listener; one of a single port is written at once. Every port
// is a range like others, the widest.
func (l *layout) listen(lis lb.Listener, service uint32) error {
	p := l.at(lis.Addr)
	s := l.b.byIndex[service]
	p.hasLocal = p.hasLocal || s.local
	n, err := l.b.numbers.get(endpoint{lis.Addr, lis.Proto})
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
		return l.port(n, lis.First, service)
	default:
		*ranges = append(*ranges, portRange{lis.First, lis.Last, service})
	}
	return nil
}

func (l *layout) port(vip, port uint16, service uint32) error {
	p := bpf.PortWord(port)
	hash := bpf.FirstPortLine(vip, port)
	for i := range uint32(bpf.Probes) {
		line := &l.b.dp.Ports[l.half*bpf.PortLines+(hash+i)%bpf.PortLines]
		for w := range line.Way {
			if line.Way[w].VIP == 0 {
				line.Way[w].Service, line.Way[w].Port, line.Way[w].VIP = service, p, vip
				return nil
			}
		}
	}
	return errTooManyPorts
}

// drain keeps the VIPs known of a service that has lost its listeners: its
// flows live on there, and nothing new is scheduled.
func (l *layout) drain(s *service) {
	for _, e := range s.heard {
		n, ok := l.b.numbers.of[e]
		switch {
		case !ok: // no flow of this VIP is left
		case e.proto == lb.UDP:
			l.at(e.vip).udp = n
		default:
			l.at(e.vip).tcp = n
		}
	}
}

// finish writes the ranges and the VIPs.
func (l *layout) finish() error {
	at := uint32(0)
	for _, addr := range l.order {
		p := l.vips[addr]
		tcp, udp := flatten(p.tcpRanges), flatten(p.udpRanges)
		if int(at)+len(tcp)+len(udp) > bpf.Ranges || max(len(tcp), len(udp)) > 0xffff {
			return errors.New("too many port ranges (at most 65536)")
		}
		v := bpf.VIP{TCP: p.tcp, UDP: p.udp, Ranges: at, TCPRanges: uint16(len(tcp)), UDPRanges: uint16(len(udp))}
		v.Addr = bpf.AddressOf(addr)
		l.flag(&v, addr, p)
		for _, r := range append(tcp, udp...) {
			l.b.dp.Ranges[l.half*bpf.Ranges+at] = bpf.Range{First: r.first, Last: r.last, Service: r.service}
			at++
		}
		if err := l.vip(v, addr); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) flag(v *bpf.VIP, addr netip.Addr, p *vipPlan) {
	if role := l.roles[addr]; role != nil {
		if role.Standby {
			v.Flags |= bpf.VIPStandby
		}
		if role.Leased {
			v.Flags |= bpf.VIPLeased
			v.Lease = uint16(role.Lease)
		}
	}
	if p.hasLocal && len(l.b.state.Peers) > 0 {
		v.Flags |= bpf.VIPPeers
	}
}

func (l *layout) vip(v bpf.VIP, addr netip.Addr) error {
	hash := bpf.FirstVIPLine(addr)
	for i := range uint32(bpf.Probes) {
		line := &l.b.dp.VIPs[l.half*bpf.VIPLines+(hash+i)%bpf.VIPLines]
		for w := range line.Way {
			if line.Way[w].TCP|line.Way[w].UDP == 0 {
				line.Way[w] = v
				return nil
			}
		}
	}
	return errors.New("too many VIPs meet in one place of the table (at most some 16000 VIPs)")
}

// flatten makes overlapping ranges disjoint and sorted; the narrower wins.
func flatten(in []portRange) []portRange {
	slices.SortFunc(in, func(a, b portRange) int { // widest first, later ones paint over
		return cmp.Compare(int(b.last)-int(b.first), int(a.last)-int(a.first))
	})
	var out []portRange
	for _, r := range in {
		var next []portRange
		for _, o := range out {
			if o.last < r.first || o.first > r.last {
				next = append(next, o)
				continue
			}
			if o.first < r.first {
				next = append(next, portRange{o.first, r.first - 1, o.service})
			}
			if o.last > r.last {
				next = append(next, portRange{r.last + 1, o.last, o.service})
			}
		}
		out = append(next, r)
	}
	slices.SortFunc(out, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	return out
}
