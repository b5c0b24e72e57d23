package loader

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mapped is one array map in our address space.
type mapped struct{ bytes []byte }

// mapMemory maps an array that was made with BPF_F_MMAPABLE.
func mapMemory(m *ebpf.Map) (mapped, error) {
	return mapMemoryFor(m, unix.PROT_READ|unix.PROT_WRITE)
}

// mapMemoryFor is [mapMemory] for what protection allows (PROT_READ ...).
func mapMemoryFor(m *ebpf.Map, protection int) (mapped, error) {
	size := stride(m) * int(m.MaxEntries())
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, size, protection, unix.MAP_SHARED)
	if err != nil {
		return mapped{}, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return mapped{bytes: b}, nil
}

// stride is how far apart the values of an array lie.
func stride(m *ebpf.Map) int { return (int(m.ValueSize()) + 7) / 8 * 8 }

func (m *mapped) unmap() {
	if m.bytes != nil {
		_ = unix.Munmap(m.bytes)
		m.bytes = nil
	}
}

// viewAll gives the elements of a map that is one value ([bpf.ElementOf]).
func viewAll[T any](b mapped, m *ebpf.Map) []T {
	return view[T](b, m.ValueSize()/uint32(unsafe.Sizeof(*new(T))))
}

// view gives n entries of an array as a slice. T must be the map's value
// type, its size a multiple of eight.
func view[T any](m mapped, n uint32) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(m.bytes))), n)
}
