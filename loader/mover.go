package loader

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/lvx-lb/lvx/bpf"
)

// mover copies the entries of a table that is left behind into the one that
// takes its place, where its keys lie elsewhere. Packets may use both tables
// meanwhile.
type mover struct {
	from        []uint64
	fromPieces  *Pieces // in place of from
	keys        []bitCopy
	values      []bitCopy
	toValue     *btf.Struct
	fromValue   *btf.Struct
	sameValues  bool
	into        []uint64
	intoPieces  *pieceMover // in place of into
	stride      int         // words of a set, of either
	hashOf      func(key, value uint64) (hash uint64, ok bool)
	isSame      func(a, b uint64) bool // values of one key, of one entry
	isLive      func(value uint64) bool
	isWorthLess func(a, b uint64) bool // a may lose its place to b
	busy        func(value uint64) uint64
	withNonce   func(value, of uint64) uint64
	mergeProven func(now, was uint64) uint64
	hasTwins    bool // flows of IPv6: see disproveTwins
	lost        int  // entries without a place
}

func (m *mover) run() error {
	m.lost = 0
	if m.intoPieces == nil {
		m.each(m.place)
		return m.errOfPieces()
	}
	m.each(func(e moved, _ [2]uint32) { m.intoPieces.add(e) })
	lost, err := m.intoPieces.finish()
	m.lost = lost
	return errors.Join(err, m.errOfPieces())
}

func (m *mover) errOfPieces() error {
	if m.fromPieces == nil {
		return nil
	}
	return m.fromPieces.Err()
}

// countFrom is how many sets there are to move.
func (m *mover) countFrom() int {
	if m.fromPieces != nil {
		return m.fromPieces.Sets()
	}
	return len(m.from) / m.stride
}

// wordsFrom are the words of a set that is moved.
func (m *mover) wordsFrom(set int) []uint64 {
	if m.fromPieces != nil {
		return m.fromPieces.Words(set)
	}
	return m.from[set*m.stride : (set+1)*m.stride]
}

// each visits the live entries with the sets that they may be in.
func (m *mover) each(visit func(moved, [2]uint32)) {
	if m.fromPieces != nil {
		m.fromPieces.Forget()
	}
	for set := range m.countFrom() {
		words := m.wordsFrom(set)
		for way := range bpf.Ways {
			value := atomic.LoadUint64(&words[bpf.Ways+way])
			if value == 0 {
				continue
			}
			converted, ok := m.convertValue(value)
			if !ok {
				continue
			}
			e := moved{key: m.convertKey(atomic.LoadUint64(&words[way])), value: converted, owner: m.ownerAt(words, way)}
			if e.hash, ok = m.hashOf(e.key, e.value); ok {
				visit(e, bpf.TwoSets(e.hash, uint32(len(m.into)/m.stride)))
			}
		}
	}
}

// moved is an entry on its way.
type moved struct {
	key, value uint64
	hash       uint64
	owner      [2]uint64 // of IPv6: the address that the key names
}

// owners is where in a table the address of the entry at the index of its key
// is; false where there are none.
func (m *mover) owners(at int) (int, bool) {
	way := at % m.stride
	return at - way + 2*bpf.Ways + 2*way, m.stride != wordsOfSet
}

func (m *mover) ownerAt(table []uint64, at int) (owner [2]uint64) {
	if i, ok := m.owners(at); ok {
		owner[0], owner[1] = atomic.LoadUint64(&table[i]), atomic.LoadUint64(&table[i+1])
	}
	return owner
}

func (m *mover) convertKey(key uint64) uint64 {
	var now uint64
	convertValue(m.keys, bytesOfWord(&now), bytesOfWord(&key))
	return now
}

// convertValue is false for what is no entry: a free place, or one that a
// packet was writing.
func (m *mover) convertValue(value uint64) (now uint64, ok bool) {
	if m.sameValues {
		return value, m.isLive(value)
	}
	state, found := memberOf(m.fromValue, "state")
	if !found {
		return 0, false
	}
	was := readBits(bytesOfWord(&value), uint32(state.Offset), uint32(state.BitfieldSize))
	if was == 0 || was == 1<<state.BitfieldSize-1 { // empty, busy
		return 0, false
	}
	convertValue(m.values, bytesOfWord(&now), bytesOfWord(&value))
	if m.mergeProven != nil {
		now = m.mergeProven(now, value)
	}
	return now, m.isLive(now)
}

// provenMerger is for flows whose proof was a bit of its own: today a state
// says it, and only of flows that are worth more for it. nil if nothing has
// changed.
func provenMerger(to, from *btf.Struct) func(now, was uint64) uint64 {
	if _, isApart := memberOf(to, "proven"); isApart {
		return nil
	}
	proven, wasApart := memberOf(from, "proven")
	if !wasApart {
		return nil
	}
	return func(now, was uint64) uint64 {
		if readBits(bytesOfWord(&was), uint32(proven.Offset), 1) == 0 {
			return now
		}
		v := bpf.FlowValue(now)
		switch v.State() {
		case bpf.StateEstablished, bpf.StateFinWait, bpf.StateUDP:
			return uint64(bpf.FlowValueOf(v.Port(), v.Real(), v.Generation(), v.State(), true, v.Seen()))
		}
		return now
	}
}

func bytesOfWord(w *uint64) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(w)), 8) }

// place stores an entry unless the same one is there.
func (m *mover) place(e moved, sets [2]uint32) {
	if m.hasTwins {
		defer m.disproveTwins(sets, e)
	}
	for range 8 { // packets may take a place first
		at, found := m.choose(sets, e)
		if found {
			return
		}
		if at < 0 {
			m.lost++
			return
		}
		old := atomic.LoadUint64(&m.into[at+bpf.Ways])
		if m.isLive(old) && !m.isWorthLess(old, e.value) {
			continue
		}
		busy := m.busy(old)
		if !atomic.CompareAndSwapUint64(&m.into[at+bpf.Ways], old, busy) {
			continue
		}
		if i, ok := m.owners(at); ok { // before the key: who matches that reads it
			atomic.StoreUint64(&m.into[i], e.owner[0])
			atomic.StoreUint64(&m.into[i+1], e.owner[1])
		}
		atomic.StoreUint64(&m.into[at], e.key)
		atomic.StoreUint64(&m.into[at+bpf.Ways], m.withNonce(e.value, busy))
		return
	}
	m.lost++
}

// disproveTwins takes what makes them proven from flows of one key and port,
// where there are several: twins (bpf/flow.h).
func (m *mover) disproveTwins(sets [2]uint32, e moved) {
	var twins []int
	for _, set := range sets {
		for way := range bpf.Ways {
			i := int(set)*m.stride + way
			v := atomic.LoadUint64(&m.into[i+bpf.Ways])
			if m.isLive(v) && atomic.LoadUint64(&m.into[i]) == e.key && m.isSame(v, e.value) {
				twins = append(twins, i+bpf.Ways)
			}
		}
	}
	for _, at := range twins {
		if len(twins) > 1 && bpf.FlowValue(atomic.LoadUint64(&m.into[at])).IsProven() {
			atomic.AndUint64(&m.into[at], ^(uint64(1) << 63))
		}
	}
}

// choose is the place for an entry, as the index of its key: a free one, in the
// set that set_choose of bpf/set.h would take, since both fill one table; else
// one that is worth less, else -1. found is true if the entry is there.
func (m *mover) choose(sets [2]uint32, e moved) (at int, found bool) {
	free, count, worse := [2]int{-1, -1}, [2]int{}, -1 // count of the free places of each set
	for s, set := range sets {
		for way := range bpf.Ways {
			i := int(set)*m.stride + way
			v := atomic.LoadUint64(&m.into[i+bpf.Ways])
			switch {
			case m.isFree(v):
				free[s] = i
				count[s]++
			case !m.isLive(v):
			case atomic.LoadUint64(&m.into[i]) == e.key && m.isSame(v, e.value) && m.ownerAt(m.into, i) == e.owner:
				return i, true
			case worse < 0 && m.isWorthLess(v, e.value):
				worse = i
			}
		}
	}
	switch {
	case count[0] < 2 && count[1] > count[0]:
		return free[1], false
	case count[0] > 0:
		return free[0], false
	}
	return worse, false
}

func (m *mover) isFree(v uint64) bool { return bpf.FlowValue(v).State() == bpf.StateEmpty }
