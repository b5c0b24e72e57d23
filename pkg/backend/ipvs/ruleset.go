package ipvs

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A ruleset is what the nftables table should say: which packets get which
// mark, and which clients of which packets are dropped. Its spans do not
// overlap, so that no order of rules matters.
type ruleset struct {
	spans  []span
	denied map[string][]addrRange // clients to drop, by service; sorted, disjoint
}

// A span is a range of ports of one VIP that belongs to one service.
type span struct {
	addr        netip.Addr
	proto       lb.Protocol
	first, last uint16
	service     string
	mark        uint32 // 0: the service is served by its address
}

// addrRange is a range of addresses of one family, both ends included.
type addrRange struct{ first, last netip.Addr }

// String writes "10.0.0.0-10.0.0.255".
func (r addrRange) String() string { return r.first.String() + "-" + r.last.String() }

// empty reports whether no rule is needed at all.
func (r ruleset) empty() bool { return len(r.spans) == 0 }

// newRuleset compiles the listeners that are not standby. Spans that neither
// need a mark nor have denied clients are left out.
func newRuleset(s lb.State, mark func(lb.Service) uint32) ruleset {
	r := ruleset{denied: map[string][]addrRange{}}
	everyone := deniedRanges(s.Deny, s.Allow)
	for _, svc := range s.Services {
		if d := union(everyone, deniedRanges(svc.Deny, svc.Allow)); len(d) > 0 {
			r.denied[svc.Name] = d
		}
	}
	for _, sp := range spans(s, mark) {
		if sp.mark != 0 || len(r.denied[sp.service]) > 0 {
			r.spans = append(r.spans, sp)
		}
	}
	return r
}

// spans cuts the listeners of all services into ranges that do not overlap:
// where several listeners contain a port, the narrowest has it.
func spans(s lb.State, mark func(lb.Service) uint32) []span {
	type target struct {
		addr  netip.Addr
		proto lb.Protocol
	}
	listeners, standby := map[target][]span{}, s.StandbyVIPs()
	for _, svc := range s.Services {
		for _, l := range svc.Listeners {
			if standby[l.Addr] {
				continue
			}
			sp := span{addr: l.Addr, proto: l.Proto, first: l.First, last: l.Last, service: svc.Name, mark: mark(svc)}
			if l.EveryPort() {
				sp.last = 65535
			}
			t := target{l.Addr, l.Proto}
			listeners[t] = append(listeners[t], sp)
		}
	}
	var all []span
	for _, ls := range listeners {
		all = append(all, cut(ls)...)
	}
	slices.SortFunc(all, func(a, b span) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.proto, b.proto), cmp.Compare(a.first, b.first))
	})
	return all
}

// cut resolves overlaps among the spans of one address and protocol.
func cut(ls []span) []span {
	var edges []int // where ownership may change
	for _, l := range ls {
		edges = append(edges, int(l.first), int(l.last)+1)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	var out []span
	for i := 0; i+1 < len(edges); i++ {
		owner := -1
		for k, l := range ls {
			if int(l.first) <= edges[i] && edges[i] <= int(l.last) && (owner < 0 || width(l) < width(ls[owner])) {
				owner = k
			}
		}
		if owner < 0 {
			continue
		}
		piece := ls[owner]
		piece.first, piece.last = uint16(edges[i]), uint16(edges[i+1]-1)
		if n := len(out); n > 0 && out[n-1].service == piece.service && int(out[n-1].last)+1 == int(piece.first) {
			out[n-1].last = piece.last
			continue
		}
		out = append(out, piece)
	}
	return out
}

func width(s span) int { return int(s.last) - int(s.first) }

// deniedRanges lists the clients that a pair of lists shuts out: the longest
// prefix that contains a client decides, a tie denies, and with an allow list
// who is on no list is out.
func deniedRanges(deny, allow []netip.Prefix) []addrRange {
	var out []addrRange
	for _, is4 := range []bool{true, false} {
		out = append(out, deniedFamily(deny, allow, is4)...)
	}
	return out
}

func deniedFamily(deny, allow []netip.Prefix, is4 bool) []addrRange {
	type verdict struct {
		addrRange
		bits int
		deny bool
	}
	everything := addrRange{netip.IPv6Unspecified(), lastOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))}
	if is4 {
		everything = addrRange{netip.IPv4Unspecified(), lastOf(netip.PrefixFrom(netip.IPv4Unspecified(), 0))}
	}
	lists := []verdict{{everything, -1, len(allow) > 0}}
	for i, p := range slices.Concat(deny, allow) {
		if p.Addr().Is4() == is4 {
			p = p.Masked()
			lists = append(lists, verdict{addrRange{p.Addr(), lastOf(p)}, p.Bits(), i < len(deny)})
		}
	}
	var edges []netip.Addr
	for _, v := range lists {
		edges = append(edges, v.first)
		if next := v.last.Next(); next.IsValid() && next.Is4() == is4 {
			edges = append(edges, next)
		}
	}
	slices.SortFunc(edges, netip.Addr.Compare)
	edges = slices.Compact(edges)

	var out []addrRange
	for i, from := range edges {
		best := lists[0]
		for _, v := range lists[1:] {
			inside := v.first.Compare(from) <= 0 && from.Compare(v.last) <= 0
			if inside && (v.bits > best.bits || v.bits == best.bits && v.deny) {
				best = v
			}
		}
		if !best.deny {
			continue
		}
		to := everything.last
		if i+1 < len(edges) {
			to = edges[i+1].Prev()
		}
		out = append(out, addrRange{from, to})
	}
	return union(out, nil)
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// union merges ranges that overlap or touch.
func union(a, b []addrRange) []addrRange {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y addrRange) int { return cmp.Or(x.first.Compare(y.first), x.last.Compare(y.last)) })
	var out []addrRange
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1].first.Is4() == r.first.Is4() {
			last := &out[n-1].last
			if next := last.Next(); !next.IsValid() || r.first.Compare(next) <= 0 {
				if last.Less(r.last) {
					*last = r.last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// contains reports whether one of the ranges holds a.
func contains(ranges []addrRange, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r addrRange) bool {
		return r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
	})
}
