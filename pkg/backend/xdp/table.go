package xdp

import (
	"encoding/binary"
	"net/netip"

	"github.com/lvx-lb/lvx/bpf"
)

// table is a table of one family as it lies in memory: sets of keys, then as
// many values, then, of IPv6, the addresses that the keys name.
type table struct {
	words  []uint64
	stride int // words of a set
}

func (b *Backend) flowTables() [2]table {
	return [2]table{{b.dp.Flows, 2 * bpf.Ways}, {b.dp.Flows6, bpf.SetWords6}}
}

func (b *Backend) templateTables() [2]table {
	return [2]table{{b.dp.Templates, 2 * bpf.Ways}, {b.dp.Templates6, bpf.SetWords6}}
}

// sets is how many sets t has.
func (t table) sets() int { return len(t.words) / t.stride }

func (t table) isIPv6() bool { return t.stride == bpf.SetWords6 }

// entry is a place of a table.
type entry struct {
	key      uint64
	value    *uint64
	table    table
	set, way int
}

// at is the place of a way in a set.
func (t table) at(set, way int) entry {
	return t.placeOf(load64(&t.words[set*t.stride+way]), set, way)
}

// placeOf is the place of a way in a set, whose key is known.
func (t table) placeOf(key uint64, set, way int) entry {
	return entry{key, &t.words[set*t.stride+way+bpf.Ways], t, set, way}
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
	at := set*t.stride + bpf.Ways
	return emptyValues(t.words[at : at+bpf.Ways])
}

// place is the number of the place among all of its table.
func (e entry) place() int { return e.set*bpf.Ways + e.way }

// keyNow is the key that is at the place by now.
func (e entry) keyNow() uint64 { return load64(&e.table.words[e.set*e.table.stride+e.way]) }

// clientBytes is the client's address as [connsync.Member] has it.
func (e entry) clientBytes() (b [16]byte) {
	if !e.table.isIPv6() {
		binary.NativeEndian.PutUint32(b[:], uint32(e.key))
		return b
	}
	at := e.set*e.table.stride + 2*bpf.Ways + 2*e.way
	binary.NativeEndian.PutUint64(b[:], load64(&e.table.words[at]))
	binary.NativeEndian.PutUint64(b[8:], load64(&e.table.words[at+1]))
	return b
}

// client is the client's address; of a template masked.
func (e entry) client() netip.Addr {
	if !e.table.isIPv6() {
		return bpf.FlowKey(e.key).Client() // a template's key begins alike
	}
	at := e.set*e.table.stride + 2*bpf.Ways + 2*e.way
	low, high := load64(&e.table.words[at]), load64(&e.table.words[at+1])
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
