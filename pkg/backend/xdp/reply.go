package xdp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

var errTooManyReplies = errors.New("too many VIPs' ports lead to one port of a real server by NAT, or too many such ports meet in one place of the table")

// layOutReplies writes into one half by what replies are known, and the routes to
// the clients. What the other half has besides is kept as long as a connection may
// need it: of reals, listeners and services that are gone.
func (b *Backend) layOutReplies(half uint32) error {
	if !b.hasNAT {
		return nil
	}
	lines := b.dp.Replies[half*bpf.ReplyLines : (half+1)*bpf.ReplyLines]
	clear(lines)
	if err := b.fail("replies"); err != nil {
		return err
	}
	var replies []bpf.Reply
	for _, s := range b.byIndex {
		if s == nil || !s.isThere || s.inApply != b.applies { // one that leaves is kept, too
			continue
		}
		var err error
		if replies, err = appendReplies(replies, &s.conf, &b.numbers, func(a netip.Addr) bool { return b.neigh.Lookup(a).Local }); err != nil {
			return err
		}
	}
	if err := placeReplies(lines, replies); err != nil {
		return err
	}
	other := b.dp.Replies[(1-half)*bpf.ReplyLines : (2-half)*bpf.ReplyLines]
	b.formerReplies = b.keepReplies(lines, other)
	b.dp.Routes[half] = b.routeList()
	return b.layOutWays()
}

// keepReplies adds to lines what other has besides, as far as there is room, and
// returns it: by how many passes of the sweeper have seen no connection that
// needs it.
func (b *Backend) keepReplies(lines, other []bpf.ReplyLine) map[bpf.Reply]int {
	former := map[bpf.Reply]int{}
	for i := range other {
		for _, reply := range other[i].Way {
			if reply.Protocol == 0 { // an empty place
				continue
			}
			who, ok := b.numbers.who[reply.Number]
			if !ok || who.proto != lb.Protocol(reply.Protocol) || bpf.IPv4Word(who.vip) != reply.VIP || b.formerReplies[reply] >= idlePasses {
				continue
			}
			if isNew, err := addReply(lines, reply); err == nil && isNew {
				former[reply] = b.formerReplies[reply]
			}
		}
	}
	return former
}

// vipPort is a port of a VIP, by the VIP's number.
type vipPort struct{ number, port uint16 }

// ageReplies counts another pass of the sweeper for what replies were known by.
func (b *Backend) ageReplies() {
	for reply := range b.formerReplies {
		_, live := b.sweep.perPort[vipPort{reply.Number, bpf.PortWord(reply.VIPPort)}]
		if reply.VIPPort == 0 {
			_, live = b.sweep.perVIP[reply.Number]
		}
		b.formerReplies[reply]++
		if live {
			b.formerReplies[reply] = 0
		}
	}
}

// appendReplies appends where the replies of a service's reals come from, and of those
// that are out for now: a state that would have no place for them when they return is
// refused before. A real that is this host answers as the VIP.
func appendReplies(all []bpf.Reply, conf *lb.Service, n *numbers, isLocal func(netip.Addr) bool) ([]bpf.Reply, error) {
	for _, reals := range [][]lb.Real{conf.Reals, conf.Absent} {
		for i := range reals {
			r := &reals[i]
			if r.Forward != lb.NAT || isLocal(r.Addr) {
				continue
			}
			for _, l := range conf.Listeners {
				number, err := n.get(endpoint{l.Addr, l.Proto})
				if err != nil {
					return nil, err
				}
				reply := bpf.Reply{Source: bpf.IPv4Word(r.Addr), Protocol: uint16(l.Proto), VIP: bpf.IPv4Word(l.Addr), Number: number}
				if l.Width() == 1 {
					reply.Port, reply.VIPPort = bpf.PortWord(cmp.Or(r.Port, l.First)), bpf.PortWord(l.First)
				}
				all = append(all, reply)
			}
		}
	}
	return all, nil
}

// placeReplies writes replies into lines. By the order of the lines where their
// searches begin none is further from there than it must be: whether all have
// a place does not depend on the order that they are given in.
func placeReplies(lines []bpf.ReplyLine, all []bpf.Reply) error {
	type place struct {
		first uint32
		reply bpf.Reply
	}
	places := make([]place, len(all))
	for i, reply := range all {
		places[i] = place{bpf.FirstReplyLine(bpf.AddrOfWord(reply.Source), bpf.PortWord(reply.Port), reply.Protocol), reply}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.first, b.first) })
	for _, p := range places {
		if _, err := addReply(lines, p.reply); err != nil {
			return fmt.Errorf("real %s: %w", bpf.AddrOfWord(p.reply.Source), err)
		}
	}
	return nil
}

// addReply writes one place, unless it is there.
func addReply(lines []bpf.ReplyLine, reply bpf.Reply) (isNew bool, err error) {
	first := bpf.FirstReplyLine(bpf.AddrOfWord(reply.Source), bpf.PortWord(reply.Port), reply.Protocol)
	for i := range uint32(bpf.Probes) {
		line := &lines[(first+i)%bpf.ReplyLines]
		for w := range line.Way {
			switch {
			case line.Way[w] == reply:
				return false, nil
			case line.Way[w].Protocol == 0:
				line.Way[w] = reply
				return true, nil
			}
		}
	}
	return false, errTooManyReplies
}

// routeList is what the packet path knows itself of the host's routes.
func (b *Backend) routeList() (list bpf.RouteList) {
	for i, route := range b.neigh.Routes() {
		if i == len(list.Way) {
			break // the kernel is asked for the rest
		}
		list.Way[i] = b.routeTo(route)
	}
	return list
}

func (b *Backend) routeTo(route Route) bpf.Route {
	raw := bpf.Route{
		Network: bpf.IPv4Word(route.To.Masked().Addr()), Mask: mask(route.To.Bits()),
		Hop: bpf.Hop{Kind: bpf.RouteAsk, MTU: uint32(max(route.MTU, 0))},
	}
	if route.To.Bits() == 0 {
		raw.Mask = 0
	}
	if !route.Gateway.IsValid() {
		return raw
	}
	near := b.neigh.Lookup(route.Gateway)
	if near.Local || near.Gateway != (netip.Addr{}) || near.MAC == ([6]byte{}) {
		return raw
	}
	mtu := cmp.Or(route.MTU, near.MTU) // ip_forward goes by the route's own
	if mtu <= 0 {
		mtu = 0xffff
	}
	raw.Hop = bpf.Hop{MAC: near.MAC, Source: near.Source, Ifindex: b.dp.Way(near.IfIndex), MTU: uint32(mtu), Kind: bpf.RouteGateway}
	return raw
}

// countReplies adds what a real has sent to its clients by NAT.
func (b *Backend) countReplies(slot uint32, to *lb.Counters) error {
	if !b.hasNAT {
		return nil
	}
	var per []bpf.ReplyCounter
	if err := b.dp.Maps.ReplyCounters.Lookup(slot, &per); err != nil {
		return fmt.Errorf("counters of replies: %w", err)
	}
	for _, p := range per {
		add(to, lb.Counters{OutPkts: p.Packets, OutBytes: p.Bytes})
	}
	return nil
}

func (b *Backend) clearReplies(slot uint32) error {
	if err := b.dp.Maps.ReplyCounters.Put(slot, make([]bpf.ReplyCounter, ebpf.MustPossibleCPU())); err != nil {
		return fmt.Errorf("clear counters of replies of slot %d: %w", slot, err)
	}
	return nil
}
