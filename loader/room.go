package loader

import (
	"slices"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// Room is how much the maps hold whose size follows the configuration.
type Room struct {
	Reals     int // slots of real servers, at most [bpf.Reals]; 0: so many
	RingLines int // lines of all schedulers' rings, at most [bpf.MostRingLines]; 0: [bpf.RingLines]
}

// The least that there is room for.
const (
	fewestReals     = 4096
	fewestRingLines = 32768
)

// RoomFor is room for what is needed, and for as much again: reals that have
// left stay until their connections have ended, and rings that change are laid
// beside those in force.
func RoomFor(reals, ringLines int) Room {
	return Room{
		Reals:     roundUp(2*reals, fewestReals, bpf.Reals),
		RingLines: roundUp(2*ringLines, fewestRingLines, bpf.MostRingLines),
	}
}

// roundUp is the least that is n or more among fewest, twice fewest and so on,
// at most most.
func roundUp(n, fewest, most int) int {
	size := fewest
	for size < n {
		size *= 2
	}
	return min(size, most)
}

// Union is the larger of two rooms.
func (r Room) Union(o Room) Room {
	return Room{Reals: max(r.Reals, o.Reals), RingLines: max(r.RingLines, o.RingLines)}
}

// Maps whose size is that of [Room].
var (
	mapsOfReals = []string{"reals", "addresses", "tunnels", "loads", "shares", "counters", "reply_counters"}
	mapsOfRings = []string{"rings"}
)

// sizedMaps are the maps whose size depends on [Options].
func sizedMaps() []string {
	tables := []string{"flows", "flow_pieces", "templates", "flow_news", "template_news", "flows6", "flow_pieces6", "templates6", "fragments6", "flow_news6", "template_news6"}
	return slices.Concat(tables, mapsOfReals, mapsOfRings)
}

// entries is the size of a map that follows r; 0: it does not, or is to be the
// largest.
func (r Room) entries(name string) uint32 {
	switch {
	case slices.Contains(mapsOfReals, name):
		return uint32(min(r.Reals, bpf.Reals))
	case slices.Contains(mapsOfRings, name):
		return uint32(min(r.RingLines, bpf.MostRingLines))
	}
	return 0
}

// size gives the maps of an object the sizes that r asks for.
func (r Room) size(spec *ebpf.CollectionSpec) {
	for name, m := range spec.Maps {
		if n := r.entries(name); n > 0 {
			m.MaxEntries = n
		}
	}
}

// keepRoom lets a pinned map keep its size that has more room than is asked
// for: a fresh start makes it smaller.
func (d *Datapath) keepRoom(name string, m *ebpf.Map) {
	if n := d.opts.Room.entries(name); n > 0 && m.MaxEntries() > n {
		d.spec.Maps[name].MaxEntries = m.MaxEntries()
	}
}

// Room is what the maps have room for.
func (d *Datapath) Room() Room { return Room{Reals: len(d.Reals), RingLines: len(d.Rings)} }
