package ipvs

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers of nftables: 1 is the first 16-byte one, 8 and up are the same
// space in steps of four bytes (nf_tables.h: enum nft_registers).
const (
	keyRegister   = 1
	firstQuarter  = 8
	verdictResult = 0
)

// onlyFamily ends the rule for packets of the other address family.
func onlyFamily(is4 bool) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if is4 {
		family = unix.NFPROTO_IPV4
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: keyRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: keyRegister, Data: []byte{family}},
	}
}

// address loads the source or destination address.
func address(is4, source bool) expr.Any {
	p := &expr.Payload{DestRegister: keyRegister, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}
	if is4 {
		p.Offset, p.Len = 16, 4
	}
	if source {
		p.Offset -= p.Len
	}
	return p
}

// loadKey puts destination address, protocol and destination port into the
// registers that a lookup in a map of spans reads.
func loadKey(is4 bool) []expr.Any {
	next := uint32(firstQuarter + 4)
	if is4 {
		next = firstQuarter + 1
	}
	return append(onlyFamily(is4),
		address(is4, false),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	)
}

// guardRule: ip daddr . meta l4proto . th dport vmap @guards4
func guardRule(guards *nftables.Set, is4 bool) []expr.Any {
	return append(loadKey(is4), &expr.Lookup{
		SourceRegister: keyRegister, DestRegister: verdictResult, IsDestRegSet: true, SetName: guards.Name, SetID: guards.ID,
	})
}

// markRule: meta mark set ip daddr . meta l4proto . th dport map @marks4
func markRule(marks *nftables.Set, is4 bool) []expr.Any {
	return append(loadKey(is4),
		&expr.Lookup{SourceRegister: keyRegister, DestRegister: keyRegister, IsDestRegSet: true, SetName: marks.Name, SetID: marks.ID},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: keyRegister},
	)
}

// dropRule: ip saddr @denied-0-4 counter name denied drop
func dropRule(denied *nftables.Set, is4 bool) []expr.Any {
	return append(onlyFamily(is4),
		address(is4, true),
		&expr.Lookup{SourceRegister: keyRegister, SetName: denied.Name, SetID: denied.ID},
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: deniedCounter},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}
