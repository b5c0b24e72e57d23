package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// mostNested is deeper than any type of a map.
const mostNested = 16

// valueType is the type of a map's values, from the BTF that the kernel keeps
// with the map: it describes the map as whoever made it knew it.
func valueType(m *ebpf.Map, name string) (btf.Type, error) {
	info, err := m.Info()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	id, ok := info.BTFID()
	if !ok {
		return nil, fmt.Errorf("map %s has no BTF", name)
	}
	h, err := btf.NewHandleFromID(id)
	if err != nil {
		return nil, fmt.Errorf("BTF of map %s: %w", name, err)
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("BTF of map %s: %w", name, err)
	}
	return shapeOf(spec, name)
}

// shapeOf finds the struct or enum of a name among others of that name.
func shapeOf(spec *btf.Spec, name string) (btf.Type, error) {
	all, err := spec.AnyTypesByName(name)
	if err != nil {
		return nil, fmt.Errorf("BTF: %s: %w", name, err)
	}
	for _, t := range all {
		switch t.(type) {
		case *btf.Struct, *btf.Enum:
			return t, nil
		}
	}
	return nil, fmt.Errorf("BTF: %s is neither a struct nor an enum", name)
}

// renamed are fields of structs that earlier versions called otherwise: what they
// hold means the same.
var renamed = map[string]string{
	"ring_line.slot": "real",
}

// nameToday is the name that a field of an earlier version's struct has today.
func nameToday(s *btf.Struct, m btf.Member) string {
	if name, ok := renamed[s.Name+"."+m.Name]; ok {
		return name
	}
	return m.Name
}

// isSameLayout reports whether values of two types have the same fields at
// the same places.
func isSameLayout(a, b btf.Type) bool { return equalTypes(a, b, 0) }

func equalTypes(a, b btf.Type, depth int) bool {
	if depth > mostNested {
		return false
	}
	switch a := btf.UnderlyingType(a).(type) {
	case *btf.Struct:
		b, ok := btf.UnderlyingType(b).(*btf.Struct)
		if !ok || a.Size != b.Size || len(a.Members) != len(b.Members) {
			return false
		}
		for i, m := range a.Members {
			n := b.Members[i]
			if m.Name != nameToday(b, n) || m.Offset != n.Offset || m.BitfieldSize != n.BitfieldSize || !equalTypes(m.Type, n.Type, depth+1) {
				return false
			}
		}
		return true
	case *btf.Array:
		b, ok := btf.UnderlyingType(b).(*btf.Array)
		return ok && a.Nelems == b.Nelems && equalTypes(a.Type, b.Type, depth+1)
	}
	aSize, aErr := btf.Sizeof(a)
	bSize, bErr := btf.Sizeof(b)
	_, aEnum := btf.UnderlyingType(a).(*btf.Enum)
	_, bEnum := btf.UnderlyingType(b).(*btf.Enum)
	return aErr == nil && bErr == nil && aSize == bSize && aEnum == bEnum
}

// bitCopy is a number that is in values of two types, or what enumerators
// mean that two types have in common.
type bitCopy struct {
	from, to         uint32 // bits from the start of the value
	fromBits, toBits uint32
	meaning          map[uint64]uint64 // of an enum whose numbers have changed
}

// planCopies lists what values of two types have in common: fields of the
// same names.
func planCopies(to, from btf.Type) []bitCopy { return appendCopies(nil, to, from, 0, 0, 0) }

func appendCopies(plan []bitCopy, to, from btf.Type, toAt, fromAt uint32, depth int) []bitCopy {
	if depth > mostNested {
		return plan
	}
	switch to := btf.UnderlyingType(to).(type) {
	case *btf.Struct:
		from, ok := btf.UnderlyingType(from).(*btf.Struct)
		if !ok {
			return plan
		}
		for _, m := range to.Members {
			if n, ok := memberOf(from, m.Name); ok {
				plan = appendMember(plan, m, n, toAt, fromAt, depth)
			}
		}
		return plan
	case *btf.Array:
		from, ok := btf.UnderlyingType(from).(*btf.Array)
		if !ok {
			return plan
		}
		toSize, toErr := btf.Sizeof(to.Type)
		fromSize, fromErr := btf.Sizeof(from.Type)
		if toErr != nil || fromErr != nil {
			return plan
		}
		for i := range min(to.Nelems, from.Nelems) {
			plan = appendCopies(plan, to.Type, from.Type, toAt+i*uint32(toSize)*8, fromAt+i*uint32(fromSize)*8, depth+1)
		}
		return plan
	}
	toSize, toErr := btf.Sizeof(to)
	fromSize, fromErr := btf.Sizeof(from)
	if toErr != nil || fromErr != nil || toSize > 8 || fromSize > 8 {
		return plan
	}
	return append(plan, bitCopy{
		from: fromAt, to: toAt, fromBits: uint32(fromSize) * 8, toBits: uint32(toSize) * 8, meaning: changedMeaning(to, from),
	})
}

func memberOf(s *btf.Struct, name string) (btf.Member, bool) {
	for _, m := range s.Members {
		if nameToday(s, m) == name && name != "" && name != "spare" {
			return m, true
		}
	}
	return btf.Member{}, false
}

func appendMember(plan []bitCopy, to, from btf.Member, toAt, fromAt uint32, depth int) []bitCopy {
	toAt, fromAt = toAt+uint32(to.Offset), fromAt+uint32(from.Offset)
	if to.BitfieldSize == 0 && from.BitfieldSize == 0 {
		return appendCopies(plan, to.Type, from.Type, toAt, fromAt, depth+1)
	}
	bits := func(m btf.Member) uint32 {
		if m.BitfieldSize != 0 {
			return uint32(m.BitfieldSize)
		}
		size, _ := btf.Sizeof(m.Type)
		return uint32(size) * 8
	}
	return append(plan, bitCopy{from: fromAt, to: toAt, fromBits: bits(from), toBits: bits(to)})
}

// changedMeaning maps the numbers of one enum to those of another by the
// names of the enumerators; nil if nothing has changed.
func changedMeaning(to, from btf.Type) map[uint64]uint64 {
	a, ok := btf.UnderlyingType(to).(*btf.Enum)
	b, also := btf.UnderlyingType(from).(*btf.Enum)
	if !ok || !also {
		return nil
	}
	now := map[string]uint64{}
	for _, v := range a.Values {
		now[v.Name] = v.Value
	}
	changed := false
	meaning := map[uint64]uint64{}
	for _, v := range b.Values {
		value, known := now[v.Name]
		if !known {
			value = 0 // a flag that is no more
		}
		meaning[v.Value] = value
		changed = changed || value != v.Value
	}
	if !changed {
		return nil
	}
	return meaning
}

// convertValue fills a value of one type from a value of another, which plan
// is for.
func convertValue(plan []bitCopy, to, from []byte) {
	for _, c := range plan {
		v := readBits(from, c.from, c.fromBits)
		if c.meaning != nil {
			v = c.translate(v)
		}
		writeBits(to, c.to, c.toBits, v)
	}
}

// translate gives the number of the same enumerator, or of the same flags.
func (c bitCopy) translate(v uint64) uint64 {
	if is, ok := c.meaning[v]; ok {
		return is
	}
	flags := uint64(0)
	for was, is := range c.meaning {
		if was&(was-1) == 0 && v&was != 0 {
			flags |= is
		}
	}
	return flags
}

func readBits(b []byte, at, bits uint32) (v uint64) {
	if at%8 == 0 && bits%8 == 0 {
		for i := range bits / 8 {
			v |= uint64(b[at/8+i]) << (8 * i)
		}
		return v
	}
	for i := range bits {
		v |= uint64(b[(at+i)/8]>>((at+i)%8)&1) << i
	}
	return v
}

// writeBits writes into bits that are 0.
func writeBits(b []byte, at, bits uint32, v uint64) {
	if at%8 == 0 && bits%8 == 0 {
		for i := range bits / 8 {
			b[at/8+i] = byte(v >> (8 * i))
		}
		return
	}
	for i := range bits {
		b[(at+i)/8] |= byte(v>>i&1) << ((at + i) % 8)
	}
}
