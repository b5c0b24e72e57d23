package xdp

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/lvx-lb/lvx/bpf"
)

// store64 writes a word that packets read.
func store64(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

func load64(p *uint64) uint64 { return atomic.LoadUint64(p) }

func compareAndSwap64(p *uint64, old, new uint64) bool {
	return atomic.CompareAndSwapUint64(p, old, new)
}

// nextHopWord is the first word of a real: its MAC, generation, method and flags.
func nextHopWord(mac [6]byte, generation uint8, method bpf.ForwardMethod, flags uint8) uint64 {
	b := [8]byte{mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], generation | uint8(method)<<4, flags}
	return binary.NativeEndian.Uint64(b[:])
}

// publishNextHop stores MAC, generation and flags of a real at once.
func publishNextHop(r *bpf.Real, w uint64) {
	p := (*uint64)(unsafe.Pointer(&r.MAC))
	if load64(p) != w {
		store64(p, w)
	}
}
