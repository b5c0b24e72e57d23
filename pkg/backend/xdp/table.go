package xdp

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
)

// table is a table of one family as it lies in memory: sets of keys, then as
// many values, then, of IPv6, the addresses that the keys name.
type table struct {
	words  []uint64
	stride int            // words of a set
	pieces *loader.Pieces // in place of words: of a large table of flows
}

// flowTables are the tables of flows, as they are from now on: what was read of one
// in pieces is read anew.
func (b *Backend) flowTables() [2]table {
	t := [2]table{{words: b.dp.Flows, stride: 2 * bpf.Ways}, {words: b.dp.Flows6, stride: bpf.SetWords6}}
	for family := range t {
		if t[family].pieces = b.dp.Pieces(family); t[family].pieces != nil {
			t[family].pieces.Forget()
		}
	}
	return t
}

func (b *Backend) templateTables() [2]table {
	return [2]table{{words: b.dp.Templates, stride: 2 * bpf.Ways}, {words: b.dp.Templates6, stride: bpf.SetWords6}}
}

// errOfPieces is why some flows could not be read, or changed, since it was asked
// for last.
func (b *Backend) errOfPieces() (err error) {
	for family := range 2 {
		if p := b.dp.Pieces(family); p != nil {
			err = errors.Join(err, p.Err())
		}
	}
	return err
}

// sets is how many sets t has.
func (t table) sets() int {
	if t.pieces != nil {
		return t.pieces.Sets()
	}
	return len(t.words) / t.stride
}

// stated is how many entries t has a place for, for sure.
func (t table) stated() uint64 {
	if t.pieces != nil {
		return uint64(t.pieces.Stated())
	}
	return uint64(t.sets())
}

// wordsOf are the words of a set. Of a table in pieces they are a copy, which is
// good until another set is asked for.
func (t table) wordsOf(set int) []uint64 {
	if t.pieces != nil {
		return t.pieces.Words(set)
	}
	return t.words[set*t.stride : (set+1)*t.stride]
}

// fetch has sets read that are going to be asked for. The sum is for the compiler,
// which leaves out what nobody uses.
func (t table) fetch(sets []int) (sum uint64) {
	if t.pieces != nil {
		t.pieces.Fetch(sets)
		return 0
	}
	for _, set := range sets {
		sum += load64(&t.words[set*t.stride])
	}
	return sum
}

// end frees the places of flows that are as they were read, and calls ended for
// each that was freed.
func (t table) end(flows []entry, ended func(bpf.FlowValue)) error {
	if t.pieces == nil {
		for _, e := range flows {
			if compareAndSwap64(e.value, uint64(e.was), uint64(e.was.Ended())) {
				ended(e.was)
			}
		}
		return nil
	}
	changes := make([]bpf.FlowChange, len(flows))
	for i, e := range flows {
		changes[i] = bpf.FlowChange{Set: uint32(e.set), Way: uint32(e.way), Old: uint64(e.was), Value: uint64(e.was.Ended())}
	}
	err := t.pieces.Change(changes)
	for _, c := range changes {
		if err == nil && c.Found == c.Old {
			ended(bpf.FlowValue(c.Old))
		}
	}
	return err
}

func (t table) isIPv6() bool { return t.stride == bpf.SetWords6 }

// entry is a place of a table.
type entry struct {
	key      uint64
	value    *uint64
	words    []uint64 // of its set
	table    table
	set, way int
	was      bpf.FlowValue // the value that it is to be ended with
}

// at is the place of a way in a set.
func (t table) at(set, way int) entry {
	words := t.wordsOf(set)
	return entry{key: load64(&words[way]), value: &words[way+bpf.Ways], words: words, table: t, set: set, way: way}
}

// placeOf is the place of a way in a set, whose key is known, for what is noted of
// the place: nothing is read.
func (t table) placeOf(key uint64, set, way int) entry {
	return entry{key: key, table: t, set: set, way: way}
}

// read is what is at a place, which may change hands: the value, then key and
// client, and that they are of each other. It is false for a place without an
// entry, or with another by now.
func (t table) read(set, way int) (e entry, client netip.Addr, value uint64, isLive bool) {
	e = t.at(set, way)
	value = load64(e.value)
	if !bpf.FlowValue(value).IsLive() {
		return e, client, 0, false
	}
	e.key, client = e.keyNow(), e.client()
	return e, client, value, bpf.FlowValue(load64(e.value)).Nonce() == bpf.FlowValue(value).Nonce()
}

// isEmpty reports whether no place of a set has an entry: of an idle
// director's, a million in five seconds.
func (t table) isEmpty(set int) bool {
	return emptyValues(t.wordsOf(set)[bpf.Ways : 2*bpf.Ways])
}

// keyNow is the key that is at the place by now.
func (e entry) keyNow() uint64 { return load64(&e.wordsNow()[e.way]) }

// wordsNow are the words of the set, read if they were not.
func (e entry) wordsNow() []uint64 {
	if e.words == nil {
		return e.table.wordsOf(e.set)
	}
	return e.words
}

// clientBytes is the address of the client at a way of a set, as [connsync.Member]
// has it.
func clientBytes(words []uint64, way int, isIPv6 bool) (b [16]byte) {
	if !isIPv6 {
		binary.NativeEndian.PutUint32(b[:], uint32(load64(&words[way])))
		return b
	}
	at := 2*bpf.Ways + 2*way
	binary.NativeEndian.PutUint64(b[:], load64(&words[at]))
	binary.NativeEndian.PutUint64(b[8:], load64(&words[at+1]))
	return b
}

// client is the client's address; of a template masked.
func (e entry) client() netip.Addr {
	if !e.table.isIPv6() {
		return bpf.FlowKey(e.key).Client() // a template's key begins alike
	}
	at := 2*bpf.Ways + 2*e.way
	words := e.wordsNow()
	low, high := load64(&words[at]), load64(&words[at+1])
	return bpf.Address{Word: [4]uint32{uint32(low), uint32(low >> 32), uint32(high), uint32(high >> 32)}}.Addr()
}

// templateOf is the network that the template of a client of s is of, and the
// template's key.
func (b *Backend) templateOf(s *service, client netip.Addr) (netip.Addr, bpf.TemplateKey) {
	if client.Is4() {
		network := bpf.AddrOfWord(bpf.IPv4Word(client) & s.entry.PersistMask)
		return network, bpf.TemplateKeyOf(bpf.IPv4Word(network), s.cookie)
	}
	network, err := client.Prefix(int(min(s.entry.PersistMask, 128)))
	if err != nil {
		return client, 0
	}
	return network.Addr(), bpf.TemplateKeyOf(b.dp.Settings.NameOf(network.Addr()), s.cookie)
}

// flowSets is how many sets a pass goes through.
func (b *Backend) flowSets() int {
	n := 0
	for _, t := range b.flowTables() {
		n += t.sets()
	}
	return n
}

func emptyValues(v []uint64) bool {
	return bpf.FlowValue(load64(&v[0])|load64(&v[1])|load64(&v[2])|load64(&v[3])).State() == bpf.StateEmpty
}
