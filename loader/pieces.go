package loader

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/lvx-lb/lvx/bpf"
)

// A large table of flows lies in pieces, each a map of its own (flow_pieces of
// bpf/maps.h). What is plain is an array that is mapped into memory.
const (
	// PiecesFrom is how many sets a table has, at least, that lies in pieces.
	PiecesFrom = 2_000_000

	inPieces   = 1 << 31 // of the constant flow_sets: IN_PIECES of bpf/config.h
	pieceBatch = 256     // pieces that are put into the table at once: each call waits for a grace period
	pieceBytes = 32768   // that the kernel takes for a piece
)

// piecedTable is a table of flows that may lie in pieces.
type piecedTable struct {
	array, pieces string // its maps, of which one has it
	ofPiece       uint32 // sets
}

// piecedTables are those of IPv4 and of IPv6.
var piecedTables = [2]piecedTable{
	{"flows", "flow_pieces", bpf.PieceLines},
	{"flows6", "flow_pieces6", bpf.PieceLines / 2},
}

// piecedTableOf is the table that has a map, nil if none has.
func piecedTableOf(name string) *piecedTable {
	for i := range piecedTables {
		if t := &piecedTables[i]; name == t.array || name == t.pieces {
			return t
		}
	}
	return nil
}

// size gives the maps of t the sizes that a table of so many sets needs. In pieces
// it has the memory of so many: of each piece the kernel takes the 64th part.
func (t piecedTable) size(spec *ebpf.CollectionSpec, sets uint32, o Options) {
	from := uint32(PiecesFrom)
	if o.PiecesFrom > 0 {
		from = uint32(o.PiecesFrom)
	}
	spec.Maps[t.array].MaxEntries, spec.Maps[t.pieces].MaxEntries = sets, 1
	if sets >= from {
		spec.Maps[t.array].MaxEntries = 2
		spec.Maps[t.pieces].MaxEntries = max((sets+t.stated()-1)/t.stated(), 2)
	}
}

// stated is how many flows a piece is stated for.
func (t piecedTable) stated() uint32 { return pieceBytes / (8 * uint32(strideOf(t.array))) }

// sets is how many sets a table has in its map of pieces, 0: it is plain.
func (t piecedTable) sets(pieces *ebpf.Map) uint32 {
	if n := pieces.MaxEntries(); n > 1 {
		return n * t.ofPiece
	}
	return 0
}

// flowSets is the constant flow_sets.
func (t piecedTable) flowSets(array, pieces *ebpf.Map) uint32 {
	if n := t.sets(pieces); n > 0 {
		return n | inPieces
	}
	return array.MaxEntries()
}

// fillPieces makes the pieces of tables that have none yet.
func (d *Datapath) fillPieces(adopted map[string]*ebpf.Map) error {
	for i, outer := range []*ebpf.Map{d.Maps.FlowPieces, d.Maps6.FlowPieces6} {
		name := piecedTables[i].pieces
		if piecedTables[i].sets(outer) == 0 || adopted[name] != nil {
			continue
		}
		if err := fillOuter(outer, d.spec.Maps[name].InnerMap); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func fillOuter(outer *ebpf.Map, inner *ebpf.MapSpec) error {
	var keys, fds []uint32
	var made []*ebpf.Map
	defer func() { closeAll(made) }()
	for i := range outer.MaxEntries() {
		m, err := ebpf.NewMap(inner)
		if err != nil {
			return fmt.Errorf("piece %d: %w", i, err)
		}
		keys, fds, made = append(keys, i), append(fds, uint32(m.FD())), append(made, m)
		if len(keys) < pieceBatch && i+1 < outer.MaxEntries() {
			continue
		}
		if _, err := outer.BatchUpdate(keys, fds, nil); err != nil {
			return fmt.Errorf("put pieces in: %w", err)
		}
		closeAll(made)
		keys, fds, made = keys[:0], fds[:0], made[:0]
	}
	return nil
}

func closeAll(maps []*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

// firstPiece is a piece of a table, for what its BTF says.
func firstPiece(outer *ebpf.Map) (*ebpf.Map, error) {
	var m *ebpf.Map
	if err := outer.Lookup(uint32(0), &m); err != nil {
		return nil, fmt.Errorf("first piece of %s: %w", outer, err)
	}
	return m, nil
}

// piecePad is where in a piece its sets begin: the kernel puts a header in front
// of the values of an array, and a set is to be one cache line.
var piecePad = sync.OnceValues(func() (uint32, error) {
	const line = 64
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, fmt.Errorf("BTF of the kernel: %w", err)
	}
	var array *btf.Struct
	if err := kernel.TypeByName("bpf_array", &array); err != nil {
		return 0, fmt.Errorf("BTF of the kernel: struct bpf_array: %w", err)
	}
	at, ok := offsetOf(array.Members, "value")
	if !ok {
		return 0, errors.New("BTF of the kernel: struct bpf_array has no value")
	}
	return (line - at%line) % line, nil
})

// offsetOf is where a member is, in bytes, also within a struct or union without a name.
func offsetOf(members []btf.Member, name string) (uint32, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if at, ok := offsetOf(inner, name); ok {
			return m.Offset.Bytes() + at, true
		}
	}
	return 0, false
}

// FlowSets is how many sets the table of a family has, in pieces or not.
func (d *Datapath) FlowSets(family int) uint32 {
	array, pieces := d.Maps.Flows, d.Maps.FlowPieces
	if family == 1 {
		array, pieces = d.Maps6.Flows6, d.Maps6.FlowPieces6
	}
	if n := piecedTables[family].sets(pieces); n > 0 {
		return n
	}
	return array.MaxEntries()
}

// bytesOfPieces is the memory that the pieces of a map take.
func bytesOfPieces(s *ebpf.MapSpec) int64 {
	if s.InnerMap == nil || s.MaxEntries <= 1 {
		return 0
	}
	return int64(s.MaxEntries) * pieceBytes
}

// EmptyFlows takes all flows away, for tests and benchmarks.
func (d *Datapath) EmptyFlows() error {
	clear(d.Flows)
	clear(d.Flows6)
	for i, outer := range []*ebpf.Map{d.Maps.FlowPieces, d.Maps6.FlowPieces6} {
		if piecedTables[i].sets(outer) == 0 {
			continue
		}
		for at := range outer.MaxEntries() {
			var piece *ebpf.Map
			if err := outer.Lookup(at, &piece); err != nil {
				return fmt.Errorf("piece %d of %s: %w", at, outer, err)
			}
			err := piece.Put(uint32(0), make([]byte, piece.ValueSize()))
			_ = piece.Close()
			if err != nil {
				return fmt.Errorf("piece %d of %s: %w", at, outer, err)
			}
		}
	}
	return nil
}
