package loader

import (
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Memory is what the maps take of the kernel's memory, in bytes.
type Memory struct {
	Shared int64 // whatever CPUs there are
	PerCPU int64 // for each possible CPU (/sys/devices/system/cpu/possible)
}

// On is the memory on a host with so many possible CPUs.
func (m Memory) On(cpus int) int64 { return m.Shared + int64(cpus)*m.PerCPU }

// MemoryOf computes what the maps of a fresh start take, without making any.
// Lists of filters come on top of it, by their entries.
func MemoryOf(o Options) (m Memory, err error) {
	spec, err := sizedSpec(o)
	if err != nil {
		return m, err
	}
	for name, s := range spec.Maps {
		if pinned(name) {
			m.add(name, s)
		}
	}
	return m, nil
}

// Of the kernel's structures: struct htab_elem and struct bucket of
// kernel/bpf/hashtab.c.
const (
	hashElement = 48
	hashBucket  = 16
)

func (m *Memory) add(name string, s *ebpf.MapSpec) {
	if name == "verdicts" {
		m.PerCPU += int64(unsafe.Sizeof(bpf.VerdictCounts{}))
		return
	}
	value := roundUpTo(int64(s.ValueSize), 8)
	entries := int64(s.MaxEntries)
	switch s.Type {
	case ebpf.PerCPUArray:
		m.PerCPU += entries * value
		m.Shared += entries * 8 // a pointer each
	case ebpf.LRUHash:
		buckets := int64(1)
		for buckets < entries {
			buckets *= 2
		}
		m.Shared += buckets*hashBucket + entries*(hashElement+roundUpTo(int64(s.KeySize), 8)+value)
	case ebpf.RingBuf:
		m.Shared += entries
	case ebpf.LPMTrie: // nothing until it has entries
	default:
		m.Shared += roundUpTo(entries*value, 4096) + bytesOfPieces(s)
	}
}

func roundUpTo(n, step int64) int64 { return (n + step - 1) / step * step }
