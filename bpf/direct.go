package bpf

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// direct are the maps whose values the packet path addresses without a lookup
// (VALUE_OF of maps.h). The kernel gives such an address of a map of one entry
// alone: all that the map holds is one value, an array where it is several.
var direct = []string{"settings", "verdicts", "vips"}

// makeDirect makes the maps of an object so, and refers to their values where the
// compiler has referred to the maps.
func makeDirect(spec *ebpf.CollectionSpec) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("possible CPUs: %w", err)
	}
	for _, name := range direct {
		m := spec.Maps[name]
		if m == nil {
			return fmt.Errorf("map %s is missing in the object", name)
		}
		n := m.MaxEntries
		if name == "verdicts" {
			n = uint32(cpus)
		}
		m.ValueSize, m.MaxEntries = n*m.ValueSize, 1
		if n > 1 {
			m.Value = &btf.Array{Index: m.Key, Type: m.Value, Nelems: n}
		}
	}
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			if ins := &p.Instructions[i]; ins.IsLoadFromMap() && slices.Contains(direct, ins.Reference()) {
				ins.Src = asm.PseudoMapValue
			}
		}
	}
	return nil
}

// ElementOf is the type of what a map holds one or many of.
func ElementOf(m *ebpf.MapSpec) btf.Type {
	if a, ok := m.Value.(*btf.Array); ok {
		return a.Type
	}
	return m.Value
}
