package xdp

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// layout writes one half of the lookup tables (bpf/listen.h reads them).
type layout struct {
	b     *Backend
	half  uint32
	order []netip.Addr
	vips  map[netip.Addr]*vipPlan
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
	l.vips = map[netip.Addr]*vipPlan{}
	clear(l.b.dp.VIPs[l.half*vipLines : (l.half+1)*vipLines])
	clear(l.b.dp.Ports[l.half*portLines : (l.half+1)*portLines])
}

// listen notes a listener; exact and every-port ones are written at once.
func (l *layout) listen(lis lb.Listener, service uint32) error {
	p, ok := l.vips[lis.Addr]
	if !ok {
		p = &vipPlan{}
		l.vips[lis.Addr] = p
		l.order = append(l.order, lis.Addr)
	}
	for _, r := range l.b.byIndex[service].reals {
		p.hasLocal = p.hasLocal || r.there && r.near.Local && !r.sorry
	}
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
	if lis.Width() == 1 || lis.EveryPort() {
		return l.port(n, lis.First, service)
	}
	*ranges = append(*ranges, portRange{lis.First, lis.Last, service})
	return nil
}

func (l *layout) port(vip, port uint16, service uint32) error {
	p := be16(port)
	hash := (uint32(vip) | uint32(p)<<16) * 0x9e3779b1 >> 16
	for i := range uint32(probes) {
		line := &l.b.dp.Ports[l.half*portLines+(hash+i)%portLines]
		for w := range line.Way {
			if line.Way[w].Vip == 0 {
				line.Way[w].Service, line.Way[w].Port, line.Way[w].Vip = service, p, vip
				return nil
			}
		}
	}
	return errTooManyPorts
}

// finish writes the ranges and the VIPs.
func (l *layout) finish() error {
	at := uint32(0)
	for _, addr := range l.order {
		p := l.vips[addr]
		tcp, udp := flatten(p.tcpRanges), flatten(p.udpRanges)
		if int(at)+len(tcp)+len(udp) > numRanges {
			return errors.New("too many port ranges (at most 65536)")
		}
		v := loader.RawVip{Tcp: p.tcp, Udp: p.udp, Ranges: at, TcpRanges: uint16(len(tcp)), UdpRanges: uint16(len(udp))}
		v.Addr.Word = words(addr)
		l.flag(&v, addr, p)
		for _, r := range append(tcp, udp...) {
			l.b.dp.Ranges[l.half*numRanges+at] = loader.RawRange{First: r.first, Last: r.last, Service: r.service}
			at++
		}
		if err := l.vip(v, addr); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) flag(v *loader.RawVip, addr netip.Addr, p *vipPlan) {
	if slices.Contains(l.b.state.Standby, addr) {
		v.Flags |= uint16(loader.RawVipFlagVIP_STANDBY)
	}
	for _, lease := range l.b.state.Leases {
		if slices.Contains(lease.VIP, addr) {
			v.Flags |= uint16(loader.RawVipFlagVIP_LEASED)
			v.Lease = uint16(lease.ID)
		}
	}
	if p.hasLocal && len(l.b.state.Peers) > 0 {
		v.Flags |= uint16(loader.RawVipFlagVIP_PEERS)
	}
}

func (l *layout) vip(v loader.RawVip, addr netip.Addr) error {
	hash := be32(addr) * 0x9e3779b1 >> 18
	for i := range uint32(probes) {
		line := &l.b.dp.VIPs[l.half*vipLines+(hash+i)%vipLines]
		for w := range line.Way {
			if line.Way[w].Tcp|line.Way[w].Udp == 0 {
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
