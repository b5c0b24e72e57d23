package xdp

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/bpf"
)

func (b *Backend) applySettings() {
	s := b.dp.Settings
	t := b.state.Timeouts.WithDefaults()
	for state, d := range map[bpf.FlowState]time.Duration{
		bpf.StateSynRecv:           synRecvTimeout,
		bpf.StateEstablished:       t.TCP,
		bpf.StateProvenEstablished: t.TCP,
		bpf.StateFinWait:           t.TCPFin,
		bpf.StateProvenFinWait:     t.TCPFin,
		bpf.StateTimeWait:          timeWaitTimeout,
		bpf.StateClose:             closeTimeout,
		bpf.StateSynSent:           synSentTimeout,
		bpf.StateCloseWait:         closeWaitTimeout,
		bpf.StateLastAck:           lastAckTimeout,
		bpf.StateSynAck:            synAckTimeout,
		bpf.StateUDP:               t.UDP,
		bpf.StateProvenUDP:         t.UDP,
	} {
		s.Timeout[state] = uint16(min(ticks(d), maxTicks))
	}
	s.Timeout[bpf.StateBusy] = 0xffff
	var f bpf.Setting
	if b.state.SloppyTCP {
		f |= bpf.SettingSloppyTCP
	}
	if b.state.ExpireNodestConn {
		f |= bpf.SettingExpireNodest
	}
	if b.state.ExpireQuiescentTempl {
		f |= bpf.SettingExpireQuiescent
	}
	if len(b.state.Deny)+len(b.state.Allow) > 0 {
		f |= bpf.SettingGlobalFilter
	}
	if b.hasNAT {
		f |= bpf.SettingNat
	}
	if b.hasRows {
		f |= bpf.SettingStateless
	}
	if b.hasWays {
		f |= bpf.SettingWays
	}
	if b.news != nil {
		f |= bpf.SettingNews
	}
	s.Flags = f
}

// applyInterfaces writes who the peers are, and, with all, what addresses the
// host has. The interfaces' own MACs are the loader's.
func (b *Backend) applyInterfaces(all bool) {
	if all {
		own := b.ownAddresses()
		for _, a := range b.dp.Attachments {
			b.dp.Interfaces[a.Slot].Own = listOwn(own, a.Names())
		}
	}
	for _, a := range b.dp.Attachments {
		i := &b.dp.Interfaces[a.Slot]
		var now []bpf.Peer
		for _, p := range b.state.Peers {
			if raw, ok := b.peer(p, a.Index, i.Peer[:]); ok {
				now = append(now, raw)
			}
		}
		clear(i.Peer[copy(i.Peer[:], now):])
	}
}

// listOwn are addresses of the host as an interface knows them, as many as it can:
// its own first, with which it answers reals by NAT.
func listOwn(own []netip.Addr, names []string) (list [bpf.OwnAddresses]bpf.Address) {
	here := map[netip.Addr]bool{}
	for _, name := range names {
		i, err := net.InterfaceByName(name)
		if err != nil {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				here[p.Addr()] = true
			}
		}
	}
	n := 0
	for _, isHere := range []bool{true, false} {
		for _, a := range own {
			if here[a] == isHere && n < len(list) {
				list[n] = bpf.AddressOf(a)
				n++
			}
		}
	}
	return list
}

// ownAddresses are the host's addresses; VIPs are not among them, which the packet
// path knows already, nor those of the loopback.
func (b *Backend) ownAddresses() (own []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		b.log.Warn("own addresses are not known", "err", err)
	}
	vips := map[netip.Addr]bool{}
	for _, v := range b.state.VIPs {
		vips[v.Addr] = true
	}
	for _, s := range b.state.Services {
		for _, l := range s.Listeners {
			vips[l.Addr] = true
		}
	}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLoopback() || vips[p.Addr()] {
			continue
		}
		own = append(own, p.Addr())
	}
	return own
}

// peer is how a fellow director is known on an interface. As long as it is
// only being asked for its MAC, what was known before stays.
func (b *Backend) peer(p netip.Addr, index int, known []bpf.Peer) (raw bpf.Peer, ok bool) {
	if !p.Is4() {
		return raw, false
	}
	near := b.neigh.Lookup(p)
	near.IfIndex = b.dp.ServedBy(near.IfIndex)
	if near.Pending && (near.IfIndex == 0 || near.IfIndex == index) {
		i := slices.IndexFunc(known, func(k bpf.Peer) bool { return k.Addr == bpf.IPv4Word(p) })
		if i < 0 {
			return raw, false
		}
		return known[i], true
	}
	raw.Addr = bpf.IPv4Word(p)
	copy(raw.MAC[:], near.MAC[:])
	return raw, near.MAC != ([6]byte{}) && !near.Gateway.IsValid() && near.IfIndex == index
}
