package xdp

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/lvx-lb/lvx/loader"
)

// Constants of bpf/types.h that have no BTF of their own.
const (
	noReal       = ^uint32(0)
	vipLines     = 16384
	portLines    = 65536
	numRanges    = 65536
	probes       = 4
	slotsPerLine = 16
	filterGlobal = ^uint32(0)
)

// Flags of bpf/types.h under short names.
const (
	realThere    = uint8(loader.RawRealFlagREAL_THERE)
	realUsable   = uint8(loader.RawRealFlagREAL_USABLE)
	realLocal    = uint8(loader.RawRealFlagREAL_LOCAL)
	realFiltered = uint8(loader.RawRealFlagREAL_FILTERED)
	realReserved = uint8(loader.RawRealFlagREAL_RESERVED)
	realSilent   = uint8(loader.RawRealFlagREAL_SILENT)
	realSorry    = uint8(loader.RawRealFlagREAL_SORRY)
)

const (
	vipStandby = uint16(loader.RawVipFlagVIP_STANDBY)
	vipLeased  = uint16(loader.RawVipFlagVIP_LEASED)
	vipPeers   = uint16(loader.RawVipFlagVIP_PEERS)
)

// store64 writes a word that packets read.
func store64(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

func load64(p *uint64) uint64 { return atomic.LoadUint64(p) }

func cas64(p *uint64, old, new uint64) bool { return atomic.CompareAndSwapUint64(p, old, new) }

// be32 is an IPv4 address as the packet path reads it: network byte order in
// a native word.
func be32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func addr32(v uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

// be16 is a port in network byte order; it is its own inverse.
func be16(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// words is an address as struct address has it.
func words(a netip.Addr) [4]uint32 {
	b := a.As16()
	var w [4]uint32
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func addrOf(w [4]uint32) netip.Addr {
	var b [16]byte
	for i, v := range w {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return netip.AddrFrom16(b).Unmap()
}

// way is the first word of a real: where to, whose turn, how it is.
func way(mac [6]byte, generation, flags uint8) uint64 {
	b := [8]byte{mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], generation, flags}
	return binary.NativeEndian.Uint64(b[:])
}

// publishWay stores MAC, generation and flags of a real at once.
func publishWay(r *loader.RawReal, w uint64) {
	p := (*uint64)(unsafe.Pointer(&r.Mac))
	if load64(p) != w {
		store64(p, w)
	}
}

// value is struct flow_value as a word (bpf/flow.h).
type value uint64

func (v value) seen() uint16      { return uint16(v) }
func (v value) port() uint16      { return be16(uint16(v >> 16)) }
func (v value) real() uint32      { return uint32(v>>32) & 0xfffff }
func (v value) generation() uint8 { return uint8(v>>52) & 15 }
func (v value) state() uint8      { return uint8(v>>60) & 7 }

// ended is the value of a free place that v had: only its nonce, moved on.
func (v value) ended() uint64 { return uint64(v>>56+1) & 15 << 56 }

// key is struct flow_key as a word.
type key uint64

func (k key) client() netip.Addr { return addr32(uint32(k)) }
func (k key) port() uint16       { return be16(uint16(k >> 32)) }
func (k key) vip() uint16        { return uint16(k >> 48) }

func makeKey(client netip.Addr, port, vip uint16) key {
	return key(be32(client)) | key(be16(port))<<32 | key(vip)<<48
}

// template is struct template_value as a word.
type template uint64

func (t template) real() uint32      { return uint32(t>>24) & 0xfffff }
func (t template) generation() uint8 { return uint8(t>>44) & 15 }
func (t template) live() bool        { return t>>52&7 == 1 }
func (t template) assured() bool     { return t>>55&1 != 0 }

// left is how many ticks t has to live, negative if it has expired.
func (t template) left(now uint64) int32 { return int32((uint32(t)-uint32(now))<<8) >> 8 }

const (
	templateExpires = template(0xffffff)
	templateRenewed = template(1 << 56)
)

// States of a flow (enum flow_state).
const (
	stateEmpty = uint8(loader.RawFlowStateSTATE_EMPTY)
	stateBusy  = uint8(loader.RawFlowStateSTATE_BUSY)
)

// active reports whether a state counts as ActiveConn (bpf/stats.h).
func active(state uint8) bool {
	return state == uint8(loader.RawFlowStateSTATE_SYN_RECV) || state == uint8(loader.RawFlowStateSTATE_ESTABLISHED)
}

// scale maps a 32-bit hash to an index below n.
func scale(hash, n uint32) uint32 { return uint32(uint64(hash) * uint64(n) >> 32) }

// twoSets gives the sets that a hash names.
func twoSets(hash uint64, n uint32) (first, second uint32) {
	first, second = scale(uint32(hash), n), scale(uint32(hash>>32), n)
	if second == first {
		second ^= 1
	}
	return first, second
}

// flowHash mirrors flow_hash of bpf/flow.h.
func flowHash(s *loader.RawSettings, client, vip netip.AddrPort) uint64 {
	word := func(a netip.AddrPort) uint64 { return uint64(be32(a.Addr())) | uint64(be16(a.Port()))<<32 }
	h := (word(client) ^ s.Seed[0]) * (s.Seed[1] | 1)
	h ^= h >> 32
	h = (h ^ word(vip)) * (s.Seed[2] | 1)
	return h ^ h>>29
}

// templateHash mirrors template_hash of bpf/template.h.
func templateHash(s *loader.RawSettings, k uint64) uint64 {
	h := (k ^ s.Seed[1]) * (s.Seed[2] | 1)
	h ^= h >> 32
	h *= s.Seed[0] | 1
	return h ^ h>>29
}
