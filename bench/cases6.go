package main

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// small6 are the groups of IPv6 that a table for a million flows is enough for.
func small6(chunk int) []group {
	return slices.Concat(oneFlow6(chunk), manyFlows6(million, "1M", chunk), newFlows6(chunk))
}

// prepare6 fills floor B's table and lvx's with the flows of t.
func prepare6(t traffic, flows int) func(*rig) error {
	return func(r *rig) error {
		_ = r.forget()
		if err := r.fillFloor(t, flows); err != nil {
			return err
		}
		before := r.verdicts()
		if err := r.establish(t, flows); err != nil {
			return err
		}
		return r.allFound(before, flows)
	}
}

// allFound proves that as many flows as the table is stated for have been
// opened, that none was refused, and that each has kept its place, but for one
// in a million.
func (r *rig) allFound(before [bpf.Verdicts]uint64, flows int) error {
	after := r.verdicts()
	live := 0
	count := func(set []uint64) {
		for _, word := range set[bpf.Ways : 2*bpf.Ways] {
			if bpf.FlowValue(word).IsLive() {
				live++
			}
		}
	}
	if p := r.dp.Pieces(1); p != nil {
		p.Forget()
		for set := range p.Sets() {
			count(p.Words(set))
		}
		if err := p.Err(); err != nil {
			return err
		}
	} else {
		for set := range slices.Chunk(r.dp.Flows6, bpf.SetWords6) {
			count(set)
		}
	}
	refused := after[bpf.TableBusy] - before[bpf.TableBusy]
	if refused > 0 || live < flows-flows/million || live > flows {
		return fmt.Errorf("%d of %d flows have a place, %d packets were refused one", live, flows, refused)
	}
	return nil
}

// oneFlow6 is about instructions: every line is in the cache.
func oneFlow6(chunk int) []group {
	n, data := 4*chunk, uniform(tcpFrame6(ack), 1)
	return []group{{
		name: "one flow of IPv6", state: service6(2), prepare: prepare6(data, 1),
		lanes: []lane{
			{name: "floor_b6/1", what: "floor B of IPv6", prog: floorB6, traffic: data, packets: n},
			{name: "established6/1", what: "established TCP over IPv6, 1 flow", prog: lvx, traffic: data, packets: n, verdict: forwarded},
			{name: "udp6/1", what: "UDP over IPv6, 1 flow", prog: lvx, traffic: uniform(udpFrame6(), 1), packets: n, verdict: forwarded},
		},
	}}
}

// manyFlows6 is about cache misses.
func manyFlows6(flows int, name string, chunk int) []group {
	data := uniform(tcpFrame6(ack), flows)
	return []group{{
		name: name + " flows of IPv6", state: service6(2), prepare: prepare6(data, flows),
		lanes: []lane{
			{name: "floor_b6/" + name, what: "floor B of IPv6, " + name + " flows", prog: floorB6, traffic: data, packets: chunk},
			{name: "established6/" + name, what: "established TCP over IPv6, " + name + " flows", prog: lvx, traffic: data, packets: chunk, verdict: forwarded},
		},
	}}
}

// newFlows6 is about insertion into a table of 4 million places, all taken.
func newFlows6(chunk int) []group {
	const more, places = 16 * million, 5 * million
	fresh, open := sequence(tcpFrame6(syn), more), uniform(tcpFrame6(syn), 1)
	return []group{{
		name: "new flows of IPv6, full table", state: service6(2),
		prepare: func(r *rig) error {
			_ = r.forget()
			if err := r.walk(r.raw.StoreLru6, open, places); err != nil {
				return err
			}
			return r.establish(open, places)
		},
		lanes: []lane{
			{name: "lru_insert6", what: "insert into a full LRU_HASH, IPv6", prog: storeLRU6, traffic: fresh, packets: chunk},
			{name: "syn6/full", what: "new SYN of IPv6, table full of established flows", prog: lvx, traffic: fresh, packets: chunk, verdict: forwarded},
		},
	}}
}

// Bytes that a stated flow may cost in the tables of each family.
const (
	mostPerFlow  = 64
	mostPerFlow6 = 128
)

// noteMemory notes what the kernel says that the flow tables take.
func (j *job) noteMemory(r *rig, o rigOptions) error {
	name, what, tables, most := "memory", "flow table, bytes per stated flow", []*ebpf.Map{r.dp.Maps.Flows, r.dp.Maps.FlowPieces}, float64(mostPerFlow)
	if o.ipv6 {
		name, what, tables, most = "memory6", what+" of IPv6", []*ebpf.Map{r.dp.Maps6.Flows6, r.dp.Maps6.FlowPieces6}, mostPerFlow6
	}
	perFlow, err := bytesPerFlow(tables, o.flows)
	if err != nil {
		return err
	}
	name, what = fmt.Sprintf("%s/%d", name, o.flows), fmt.Sprintf("%s, %d flows", what, o.flows)
	j.report.figure("packets", name, what, "bytes", perFlow)
	j.report.Checks = append(j.report.Checks, atMost(what, perFlow, most))
	return nil
}

// bytesPerFlow is a flow's share of the memory of a table's maps, in whole bytes: a
// map has a page or two for itself.
func bytesPerFlow(tables []*ebpf.Map, flows int) (float64, error) {
	sum := uint64(0)
	for _, table := range tables {
		memory, err := memlock(table)
		if err != nil {
			return 0, err
		}
		if sum += memory; table.Type() != ebpf.ArrayOfMaps || table.MaxEntries() == 1 {
			continue
		}
		var piece *ebpf.Map
		if err := table.Lookup(uint32(0), &piece); err != nil {
			return 0, fmt.Errorf("flow table: its first piece: %w", err)
		}
		memory, err = memlock(piece)
		_ = piece.Close()
		if err != nil {
			return 0, err
		}
		const page = 4096 // the kernel gives whole ones
		sum += uint64(table.MaxEntries()) * ((memory + page - 1) / page * page)
	}
	return math.Floor(float64(sum) / float64(flows)), nil
}

func memlock(m *ebpf.Map) (uint64, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("flow table: %w", err)
	}
	memory, ok := info.Memlock()
	if !ok {
		return 0, errors.New("flow table: the kernel does not say how much memory it takes")
	}
	return memory, nil
}
