package bpf

import (
	"math/bits"
	"net/netip"
)

// golden spreads numbers that differ in a few bits (2^32 by the golden ratio).
const golden = 0x9e3779b1

// hashBits is a hash in as many of its highest bits as n, a power of two, has
// places.
func hashBits(word, n uint32) uint32 { return word * golden >> (33 - bits.Len32(n)) }

// FirstVIPLine is the line of a half of the VIPs where the search for an
// address begins (find_vip).
func FirstVIPLine(addr netip.Addr) uint32 {
	if addr.Is4() {
		return hashBits(IPv4Word(addr), VIPLines)
	}
	w := AddressOf(addr).Word
	sum := w[0]*0x85ebca6b + w[1]*0xc2b2ae35 + w[2]*0x27d4eb2f + w[3]*golden
	return sum >> (33 - bits.Len32(VIPLines))
}

// FirstPortLine is the line of a half of the ports where the search for a
// port of a VIP begins (find_port).
func FirstPortLine(vip, port uint16) uint32 {
	return hashBits(uint32(vip)|uint32(PortWord(port))<<16, PortLines)
}

// FirstReplyLine is the line of replies, within a half, that the search for a
// real's port begins with (reply_line_at of reply.h).
func FirstReplyLine(source netip.Addr, port, protocol uint16) uint32 {
	word := uint64(IPv4Word(source)) | uint64(PortWord(port))<<32 | uint64(protocol)<<48
	return uint32(word*0x9e3779b97f4a7c15>>49) & (ReplyLines - 1)
}

// FlowHash is flow_hash of ipv4.h.
func (s *Settings) FlowHash(client, vip netip.AddrPort) uint64 {
	word := func(a netip.AddrPort) uint64 { return uint64(IPv4Word(a.Addr())) | uint64(PortWord(a.Port()))<<32 }
	h := (word(client) ^ s.Seed[0]) * (s.Seed[1] | 1)
	h ^= h >> 32
	h = (h ^ word(vip)) * (s.Seed[2] | 1)
	return h ^ h>>29
}

// FlowHash6 is flow_hash of ipv6.h: of the key and the VIP's port.
func (s *Settings) FlowHash6(k FlowKey, port uint16) uint64 {
	h := (uint64(k) ^ s.Seed[0]) * (s.Seed[1] | 1)
	h ^= h >> 32
	h = (h ^ uint64(PortWord(port))) * (s.Seed[2] | 1)
	return h ^ h>>29
}

// TemplateHash is template_hash of ipv4.h.
func (s *Settings) TemplateHash(k TemplateKey) uint64 {
	h := (uint64(k) ^ s.Seed[1]) * (s.Seed[2] | 1)
	h ^= h >> 32
	h *= s.Seed[0] | 1
	return h ^ h>>29
}

// NameOf is the word by which flow and template keys name an IPv6 client
// (name_of of ipv6.h).
func (s *Settings) NameOf(a netip.Addr) uint32 {
	sum := s.NameKey[0]
	for i, w := range AddressOf(a).Word {
		sum += s.NameKey[i+1] * uint64(w)
	}
	return uint32(sum >> 32)
}

// TwoSets are the sets that a hash names, among n: first_set and second_set
// of set.h, never the same one twice.
func TwoSets(hash uint64, n uint32) [2]uint32 {
	scale := func(hash uint32) uint32 { return uint32(uint64(hash) * uint64(n) >> 32) }
	first, second := scale(uint32(hash)), scale(uint32(hash>>32))
	if second == first {
		second ^= 1
	}
	return [2]uint32{first, second}
}
