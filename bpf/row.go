package bpf

import "unsafe"

// RowValue is struct row_value as a word: a row of a stateless service.
type RowValue uint64

// RowOf is the row of a real that has had it for ever.
func RowOf(real uint32) RowValue {
	return RowValue(real&RowNone) | RowNone<<20
}

// Real is the slot of the real that has the row now, or [RowNone].
func (r RowValue) Real() uint32 { return uint32(r) & RowNone }

// Settled is the slot of the real that had the row when it last was settled, or
// [RowNone].
func (r RowValue) Settled() uint32 { return uint32(r>>20) & RowNone }

// Generation is that of the settled real's slot.
func (r RowValue) Generation() uint8 { return uint8(r>>40) & 15 }

// Since is the tick until which the row was settled.
func (r RowValue) Since() uint16 { return uint16(r >> 44) }

// State is [RowSettled], or how far the row is from it.
func (r RowValue) State() RowState { return RowState(r>>60) & 3 }

// WithState is the row in another state.
func (r RowValue) WithState(s RowState) RowValue { return r&^(3<<60) | RowValue(s)<<60 }

// WithReal is the row when another real has it from now on; generation is that
// of the one that had it.
func (r RowValue) WithReal(real uint32, generation uint8, now uint16) RowValue {
	switch real &= RowNone; {
	case real == r.Real():
		return r
	case r.State() == RowSettled:
		r = r&RowNone<<20 | RowValue(generation&15)<<40 | RowValue(now)<<44
		return (r | RowValue(real)).WithState(RowChanged)
	}
	r = r&^RowNone | RowValue(real)
	if r.Settled() == RowNone {
		return r.WithState(RowProvable)
	}
	return r.WithState(RowChanged)
}

// WithoutSettled is the row when no connection can be left that its settled real
// has and no flow tells of.
func (r RowValue) WithoutSettled() RowValue { return RowOf(r.Real()).WithState(RowProvable) }

// Rows is a line of a ring as the rows of a stateless service.
func (l *RingLine) Rows() *[RowLineRows]uint64 {
	return (*[RowLineRows]uint64)(unsafe.Pointer(l))
}
