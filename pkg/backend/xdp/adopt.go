package xdp

import (
	"net/netip"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// adopt reads what a predecessor left in the tables, so that its services
// keep their indices, its reals their slots and its flows their reals. What
// it had and the next state has not is removed by the first Apply.
func (b *Backend) adopt() {
	if !b.dp.Adopted {
		return
	}
	b.adoptTables()
	b.adoptFilters()
	b.recount()
}

// adoptTables notes the services, the reals and the numbers of the VIPs that the
// tables name.
func (b *Backend) adoptTables() {
	for i := range b.dp.Labels {
		l := &b.dp.Labels[i]
		name := cString(l.Name[:])
		if name == "" {
			continue
		}
		s := &service{index: uint32(i), cookie: l.Cookie, reals: map[netip.AddrPort]*real{}}
		s.conf = lb.Service{Name: name, Mark: l.Mark}
		s.entry = b.dp.Services[b.dp.Settings.Half&1*bpf.Services+uint32(i)]
		s.span = span{s.entry.Ring, (s.entry.RingSize + bpf.RingLineSlots - 1) / bpf.RingLineSlots}
		if s.entry.Rows > 0 {
			s.span.n = linesOfRows(s.rowsIn())
		}
		if s.entry.Cookie == s.cookie && s.span.n > 0 {
			b.rings.reserve(s.span)
			s.isThere = true
		} else {
			s.span, s.entry.Rows = span{}, 0
		}
		s.since = load64(&b.dp.Cursors[i].Picks)
		b.services[name], b.byIndex[i] = s, s
	}
	b.persistent = true // who knows
	b.adoptReals()
	b.adoptVIPs()
}

var _ lb.Inheritor = (*Backend)(nil)

// Inherited implements [lb.Inheritor].
func (b *Backend) Inherited() []lb.ObservedService {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []lb.ObservedService
	for name, s := range b.services {
		left := lb.ObservedService{Name: name, Mark: s.conf.Mark, Backend: "xdp"}
		for _, r := range s.reals {
			if r.isThere {
				left.Reals = append(left.Reals, lb.ObservedReal{Addr: r.conf.Addr, Port: r.conf.Port, Weight: r.conf.Weight})
			}
		}
		all = append(all, left)
	}
	return all
}

// InheritedVIPs implements [lb.Inheritor].
func (b *Backend) InheritedVIPs() (addrs []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for v := range b.eachVIP {
		if v.Flags&bpf.VIPStandby == 0 {
			addrs = append(addrs, v.Addr.Addr())
		}
	}
	return addrs
}

func (b *Backend) adoptReals() {
	last := -1
	for i := range b.dp.Reals {
		if b.dp.Reals[i].Flags != 0 {
			last = i
		}
	}
	b.slots.next = uint32(last + 1)
	for i := range b.dp.Reals[:last+1] {
		raw := &b.dp.Reals[i]
		s := b.byIndex[raw.Service%bpf.Services]
		if raw.Flags == 0 || s == nil || s.cookie != raw.Cookie {
			raw.Flags = 0
			b.slots.give(uint32(i))
			continue
		}
		r := &real{slot: uint32(i), gen: raw.TenantGeneration(), isThere: raw.Flags&bpf.RealReserved == 0}
		r.isUnchecked = !r.isThere && raw.Flags&bpf.RealUnchecked != 0
		r.conf = lb.Real{Addr: b.addressOf(uint32(i)), Port: bpf.PortWord(raw.Port), Weight: raw.Weight}
		how := wayOf[raw.Method()]
		r.conf.Forward, r.conf.Encap.Kind = how.forward, how.kind
		if how.kind == lb.GUE {
			r.conf.Encap.Port = bpf.PortWord(b.dp.Tunnels[i].Port)
		}
		b.hasNAT = b.hasNAT || r.conf.Forward == lb.NAT
		r.near, r.isInherited = b.whereLeft(uint32(i))
		s.reals[r.conf.Key()] = r
	}
}

// whereLeft is how a predecessor reached the real in a slot, if it did.
func (b *Backend) whereLeft(slot uint32) (near Neighbor, ok bool) {
	raw := &b.dp.Reals[slot]
	if raw.Flags&(bpf.RealReserved|bpf.RealSilent) != 0 || raw.Flags&bpf.RealThere == 0 {
		return Neighbor{Err: "not looked up yet"}, false
	}
	near = Neighbor{
		MAC: raw.MAC, Source: raw.Source, IfIndex: b.dp.DeviceOf(raw.Ifindex), Device: b.deviceName(raw.Ifindex),
		MTU: int(raw.MTU), Local: raw.Flags&bpf.RealLocal != 0,
	}
	if isTunnel(raw.Method()) {
		near.From = b.dp.Tunnels[slot].Source.Addr()
		near.MTU += wayOf[raw.Method()].kind.Overhead(b.addressOf(slot))
	}
	return near, true
}

// deviceName is the interface that a way leads to, "" if it is not one that is served.
func (b *Backend) deviceName(way uint32) string {
	index := b.dp.DeviceOf(way)
	for i := range b.dp.Attachments {
		a := &b.dp.Attachments[i]
		for _, v := range a.VLANs {
			if v.Index == index {
				return v.Name
			}
		}
		if a.Index == index {
			return a.Name
		}
	}
	return ""
}

// adoptVIPs keeps the numbers of the VIPs in force, and of those before the last
// change: their flows are alive, and they may be served again.
func (b *Backend) adoptVIPs() {
	half := b.dp.Settings.Half & 1
	for _, h := range []uint32{half, 1 - half} {
		for _, line := range b.dp.VIPs[h*bpf.VIPLines : (h+1)*bpf.VIPLines] {
			for _, v := range line.Way {
				addr := v.Addr.Addr()
				b.numbers.adopt(v.TCP, endpoint{addr, lb.TCP})
				b.numbers.adopt(v.UDP, endpoint{addr, lb.UDP})
			}
		}
	}
	b.numbers.freeUnused() // recount ends the flows of those
}

// recount drops flows of VIPs and reals that are not known any more and
// counts the rest anew: while nobody swept, expired flows were not
// discounted.
func (b *Backend) recount() {
	clear(b.dp.Shares)
	now := b.now()
	for _, t := range b.flowTables() {
		var over []entry
		for set := range t.sets() {
			if t.isEmpty(set) {
				continue
			}
			for w := range bpf.Ways {
				if e := t.at(set, w); !b.recountFlow(&e, now) {
					over = append(over, e)
				}
			}
			if len(over) >= bpf.FlowChanges {
				over = b.dropFlows(t, over)
			}
		}
		b.dropFlows(t, over)
	}
}

// dropFlows frees the places of flows that do not count, and returns room for more.
func (b *Backend) dropFlows(t table, over []entry) []entry {
	if err := t.end(over, func(bpf.FlowValue) {}); err != nil {
		b.log.Error("end of flows that are not known", "err", err)
	}
	return over[:0]
}

// recountFlow counts a flow, and is false for one that ends.
func (b *Backend) recountFlow(e *entry, now uint64) bool {
	k, v := bpf.FlowKey(e.key), bpf.FlowValue(load64(e.value))
	if !v.IsLive() {
		return true
	}
	if _, ok := b.numbers.who[k.VIP()]; !ok || b.expired(v, now) || !b.current(v) {
		e.was = v
		return false
	}
	b.load(v.Real(), v.State(), 1)
	return true
}

// current reports whether the slot still belongs to the real that v was given.
func (b *Backend) current(v bpf.FlowValue) bool {
	return v.Real() < uint32(len(b.dp.Reals)) && b.dp.Reals[v.Real()].Flags != 0 &&
		b.dp.Reals[v.Real()].TenantGeneration() == v.Generation()
}

func cString(c []int8) string {
	var s []byte
	for _, v := range c {
		if v == 0 {
			break
		}
		s = append(s, byte(v))
	}
	return string(s)
}
