package bpf

import (
	"encoding/binary"
	"net/netip"
)

// IPv4Word is an IPv4 address as the packet path reads it: network byte order
// in a native word.
func IPv4Word(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// AddrOfWord is the address that [IPv4Word] was made of.
func AddrOfWord(w uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], w)
	return netip.AddrFrom4(b)
}

// PortWord is a port in network byte order, as packets have it; the function
// is its own inverse.
func PortWord(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// LongWord is 32 bits in network byte order; like [PortWord], it is its own inverse.
func LongWord(v uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return binary.NativeEndian.Uint32(b[:])
}

// AddressOf is an address as struct address has it: IPv4 below ::ffff:0:0/96.
func AddressOf(a netip.Addr) Address {
	b := a.As16()
	var w Address
	for i := range w.Word {
		w.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// Addr is the inverse of [AddressOf].
func (a Address) Addr() netip.Addr {
	var b [16]byte
	for i, v := range a.Word {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return netip.AddrFrom16(b).Unmap()
}

// FlowKey is struct flow_key as a word.
type FlowKey uint64

// FlowKeyOf is the key of a client's flow to the VIP of a number.
func FlowKeyOf(client netip.Addr, port, vip uint16) FlowKey {
	return FlowKey(IPv4Word(client)) | FlowKey(PortWord(port))<<32 | FlowKey(vip)<<48
}

// FlowKeyOfName is the key of a flow of the IPv6 client that has a name (see
// [Settings.NameOf]).
func FlowKeyOfName(name uint32, port, vip uint16) FlowKey {
	return FlowKey(name) | FlowKey(PortWord(port))<<32 | FlowKey(vip)<<48
}

// Client is the client's address.
func (k FlowKey) Client() netip.Addr { return AddrOfWord(uint32(k)) }

// ClientPort is the client's port.
func (k FlowKey) ClientPort() uint16 { return PortWord(uint16(k >> 32)) }

// VIP is the VIP's number for the flow's protocol.
func (k FlowKey) VIP() uint16 { return uint16(k >> 48) }

// FlowValue is struct flow_value as a word.
type FlowValue uint64

// Seen is the tick of the last packet.
func (v FlowValue) Seen() uint16 { return uint16(v) }

// Port is the VIP's port.
func (v FlowValue) Port() uint16 { return PortWord(uint16(v >> 16)) }

// Real is the slot of the flow's real.
func (v FlowValue) Real() uint32 { return uint32(v>>32) & 0xfffff }

// Generation is that of the slot when the real was chosen.
func (v FlowValue) Generation() uint8 { return uint8(v>>52) & 15 }

// Nonce changes whenever the place changes hands.
func (v FlowValue) Nonce() uint8 { return uint8(v>>56) & 15 }

// Code is the state as the flow's nibble has it, the index of its timeout.
func (v FlowValue) Code() FlowState { return FlowState(v >> 60) }

// State is the state of the connection, proven or not.
func (v FlowValue) State() FlowState {
	if v.IsProven() {
		return v.Code() & 7
	}
	return v.Code()
}

// IsProven reports whether the flow was seen again after it was established.
func (v FlowValue) IsProven() bool {
	c := v.Code()
	return c == StateProvenEstablished || c == StateProvenFinWait || c == StateProvenUDP
}

// IsLive reports whether the place holds a flow, expired or not.
func (v FlowValue) IsLive() bool { return v.Code() != StateEmpty && v.Code() != StateBusy }

// Ended is the value of the free place that v had: its nonce, moved on.
func (v FlowValue) Ended() FlowValue { return FlowValue(v.Nonce()+1) & 15 << 56 }

// Claimed is the value of the place while another entry is written there.
func (v FlowValue) Claimed() FlowValue {
	return FlowValue(StateBusy)<<60 | FlowValue(v.Nonce()+1)&15<<56
}

// WithNonce is the value with another nonce.
func (v FlowValue) WithNonce(n uint8) FlowValue { return v&^(15<<56) | FlowValue(n&15)<<56 }

// TemplateKey is struct template_key as a word.
type TemplateKey uint64

// TemplateKeyOf is the key of a client, already masked, of the service of a
// cookie.
func TemplateKeyOf(maskedClient, cookie uint32) TemplateKey {
	return TemplateKey(maskedClient) | TemplateKey(cookie)<<32
}

// Client is the client's masked address.
func (k TemplateKey) Client() netip.Addr { return AddrOfWord(uint32(k)) }

// Service is the service's cookie.
func (k TemplateKey) Service() uint32 { return uint32(k >> 32) }

// TemplateValue is struct template_value as a word.
type TemplateValue uint64

const (
	templateExpires = TemplateValue(0xffffff)
	templateRenewed = TemplateValue(1) << 49
)

// Expires is the tick at which the template ends, modulo 2^24.
func (t TemplateValue) Expires() uint32 { return uint32(t & templateExpires) }

// Real is the slot of the client's real.
func (t TemplateValue) Real() uint32 { return uint32(t>>24) & 0xfffff }

// Generation is that of the slot when the real was chosen.
func (t TemplateValue) Generation() uint8 { return uint8(t>>44) & 15 }

// Nonce changes whenever the place changes hands.
func (t TemplateValue) Nonce() uint8 { return uint8(t>>56) & 15 }

// State is 1 for a live template.
func (t TemplateValue) State() FlowState { return FlowState(t>>60) & 7 }

// IsLive reports whether the place holds a template, expired or not.
func (t TemplateValue) IsLive() bool { return t.State() == 1 }

// IsAssured reports whether one of its connections was established.
func (t TemplateValue) IsAssured() bool { return t>>48&1 != 0 }

// IsRenewed reports whether it outlived its timeout with a live connection.
func (t TemplateValue) IsRenewed() bool { return t&templateRenewed != 0 }

// IsProven reports whether one of its connections was seen again after it
// was established.
func (t TemplateValue) IsProven() bool { return t>>63 != 0 }

// Left is how many ticks the template has to live, negative if it has
// expired; 24-bit arithmetic.
func (t TemplateValue) Left(now uint64) int32 { return int32((uint32(t)-uint32(now))<<8) >> 8 }

// Renewed is the template with another end, because one of its connections
// lives.
func (t TemplateValue) Renewed(until uint32) TemplateValue {
	return t&^templateExpires | TemplateValue(until)&templateExpires | templateRenewed
}

// Ended is the value of the free place that t had: its nonce, moved on.
func (t TemplateValue) Ended() TemplateValue { return TemplateValue(t.Nonce()+1) & 15 << 56 }

// FlowValueOf is a flow as connection sync stores it: without a nonce, which
// its place gives.
func FlowValueOf(port uint16, real uint32, generation uint8, state FlowState, isProven bool, seen uint16) FlowValue {
	v := FlowValue(seen) | FlowValue(PortWord(port))<<16 | FlowValue(real)<<32 |
		FlowValue(generation&15)<<52 | FlowValue(state)<<60
	if isProven {
		v |= 1 << 63
	}
	return v
}

// TemplateValueOf is a template as connection sync stores it: without nonce,
// state and end, which its place and its lifetime give.
func TemplateValueOf(real uint32, generation uint8, isAssured, isProven bool) TemplateValue {
	t := TemplateValue(real)<<24 | TemplateValue(generation&15)<<44
	if isAssured {
		t |= 1 << 48
	}
	if isProven {
		t |= 1 << 63
	}
	return t
}

// Claimed is the value of the place while another entry is written there. It
// lies as a flow's does.
func (t TemplateValue) Claimed() TemplateValue { return TemplateValue(FlowValue(t).Claimed()) }

// WithNonce is the value with another nonce.
func (t TemplateValue) WithNonce(n uint8) TemplateValue {
	return TemplateValue(FlowValue(t).WithNonce(n))
}
