package loader

import (
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
	keys        []bitCopy
	values      []bitCopy
	toValue     *btf.Struct
	fromValue   *btf.Struct
	sameValues  bool
	into        []uint64
	hashOf      func(key, value uint64) (hash uint64, ok bool)
	isSame      func(a, b uint64) bool // values of one key, of one entry
	isLive      func(value uint64) bool
	isWorthLess func(a, b uint64) bool // a may lose its place to b
	busy        func(value uint64) uint64
	withNonce   func(value, of uint64) uint64
	mergeProven func(now, was uint64) uint64
	lost        int // entries without a place
}

func (m *mover) run() {
	m.lost = 0
	for set := 0; set < len(m.from); set += wordsOfSet {
		for way := range bpf.Ways {
			value := atomic.LoadUint64(&m.from[set+bpf.Ways+way])
			if value == 0 {
				continue
			}
			key := m.convertKey(atomic.LoadUint64(&m.from[set+way]))
			if value, ok := m.convertValue(value); ok {
				m.place(key, value)
			}
		}
	}
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

// place stores an entry unless one of its key is there.
func (m *mover) place(key, value uint64) {
	hash, ok := m.hashOf(key, value)
	if !ok {
		return
	}
	sets := bpf.TwoSets(hash, uint32(len(m.into)/wordsOfSet))
	for range 8 { // packets may take a place first
		at, found := m.choose(sets, key, value)
		if found {
			return
		}
		if at < 0 {
			m.lost++
			return
		}
		old := atomic.LoadUint64(&m.into[at+bpf.Ways])
		if m.isLive(old) && !m.isWorthLess(old, value) {
			continue
		}
		busy := m.busy(old)
		if !atomic.CompareAndSwapUint64(&m.into[at+bpf.Ways], old, busy) {
			continue
		}
		atomic.StoreUint64(&m.into[at], key)
		atomic.StoreUint64(&m.into[at+bpf.Ways], m.withNonce(value, busy))
		return
	}
	m.lost++
}

// choose is the place for an entry, as the index of its key: a free one, in the
// set that set_choose of bpf/set.h would take, since both fill one table; else
// one that is worth less, else -1. found is true if the entry is there.
func (m *mover) choose(sets [2]uint32, key, value uint64) (at int, found bool) {
	free, count, worse := [2]int{-1, -1}, [2]int{}, -1 // count of the free places of each set
	for s, set := range sets {
		for way := range bpf.Ways {
			i := int(set)*wordsOfSet + way
			v := atomic.LoadUint64(&m.into[i+bpf.Ways])
			switch {
			case m.isFree(v):
				free[s] = i
				count[s]++
			case !m.isLive(v):
			case atomic.LoadUint64(&m.into[i]) == key && m.isSame(v, value):
				return i, true
			case worse < 0 && m.isWorthLess(v, value):
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
