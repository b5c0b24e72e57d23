package netfilter

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Masquerading says which rules give TCP packets that leave this host by an interface
// another source address: those from an address, or to one; the other one is the zero
// address, and a rule that asks for it is not meant.
func (r *Reader) Masquerading(from, to netip.Addr, device string) ([]string, error) {
	places, err := nfMasquerading(from, to, device)
	if err != nil {
		return nil, err
	}
	legacy := legacyOf(from)
	if to.IsValid() {
		legacy = legacyOf(to)
	}
	saved, err := legacy.savedTable("nat")
	if err != nil {
		return nil, err
	}
	return append(places, legacy.masquerading(saved, from, to, device)...), nil
}

// nfMasquerading are those of nf_tables.
func nfMasquerading(from, to netip.Addr, device string) ([]string, error) {
	if _, err := readGeneration(); err != nil {
		if isAbsent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	rules, err := readRules(*nftables.ChainHookPostrouting)
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	p := leavingPacket(from, to, device, uint32(ifi.Index))
	var places []string
	for _, t := range rules.tables {
		for _, base := range t.base {
			if t.hasFamilyOf(p) {
				places = append(places, t.findMasquerading(p, base)...)
			}
		}
	}
	return places, nil
}

// leavingPacket is what is known of TCP packets from an address, or to one, that leave
// by an interface.
func leavingPacket(from, to netip.Addr, device string, index uint32) packet {
	p := packetFor(lb.Listener{Addr: to, Proto: lb.TCP}, device, index)
	if from.IsValid() {
		p = packetFor(lb.Listener{Addr: from, Proto: lb.TCP}, device, index)
		p.turn()
	}
	p.isLeaving = true
	return p
}

// turn has the address of p be its source; the destination is not known.
func (p *packet) turn() {
	own, others := p.fields[len(p.fields)-1], p.fields[len(p.fields)-2]
	p.network.setBytes(others.from, p.listener.Addr.AsSlice()...)
	for i := own.from; i < own.to; i++ {
		p.network.lo[i], p.network.hi[i], p.network.fixed[i] = 0, 0xff, false
	}
	p.fields = []field{p.fields[0], {others.from, others.to, destination}, {own.from, own.to, source}}
}

// findMasquerading lists what gives all these packets another source address in one
// base chain.
func (t *table) findMasquerading(p packet, base *chain) (places []string) {
	w := &walk{packet: p, table: t}
	w.followChain(base, yes, 0, 0)
	for _, f := range w.hides {
		places = append(places, f.where)
	}
	return places
}
