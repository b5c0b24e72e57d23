package main

import (
	"fmt"
	"slices"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// group is a set of lanes that are measured in turn over the same tables.
type group struct {
	name    string
	state   lb.State
	prepare func(*rig) error
	lanes   []lane
}

const (
	million = 1_000_000

	forwarded = bpf.Forwarded
)

// small are the groups that a table for a million flows is enough for.
func small(chunk int) []group {
	return slices.Concat(oneFlow(chunk), manyFlows(million, "1M", chunk), ways(1, "1", chunk), ways(million, "1M", chunk),
		newFlows(chunk), persistence(chunk), scales(chunk), pairs(million, chunk))
}

// brief are those that have a target.
func brief(chunk int) []group {
	sizes := scales(chunk)[0]
	sizes.lanes = sizes.lanes[:2]
	return slices.Concat(oneFlow(chunk), manyFlows(million, "1M", chunk), ways(million, "1M", chunk), newFlows(chunk)[:2], []group{sizes}, pairs(million, chunk))
}

// oneFlow is about instructions: every line is in the cache.
func oneFlow(chunk int) []group {
	n := 4 * chunk
	data := uniform(tcpFrame(ack), 1)
	clients := 1000 // a client has one datagram on the way
	errors := uniform(icmpError(), 1)
	errors.by = quote
	return []group{{
		name: "one flow", state: with(services(1, 2), alsoUDP),
		prepare: func(r *rig) error {
			if err := r.fillFloor(data, 1); err != nil {
				return err
			}
			return r.establish(data, 1)
		},
		lanes: []lane{
			{name: "floor_a/1", what: "floor A: both MACs rewritten, nothing looked up", prog: floorA, traffic: data, packets: n},
			{name: "floor_b/1", what: "floor B: one kernel hash lookup, array, per-CPU counter", prog: floorB, traffic: data, packets: n},
			{name: "established/1", what: "established TCP, 1 flow", prog: lvx, traffic: data, packets: n, verdict: forwarded},
			{name: "udp/1", what: "UDP, 1 flow", prog: lvx, traffic: uniform(udpFrame(), 1), packets: n, verdict: forwarded},
			{name: "not_ours/address", what: "not ours: another address", prog: lvx, traffic: data.toVIP(otherVIP), packets: n,
				verdict: bpf.NotOurs},
			{name: "not_ours/port", what: "not ours: another port of the VIP", prog: lvx, traffic: data.ports(81, 81), packets: n,
				verdict: bpf.NoListener},
			{name: "not_ours/mac", what: "not ours: another MAC", prog: lvx, traffic: uniform(tcpFrame(ack).to(elsewhere), 1), packets: n,
				verdict: bpf.NotOurMAC},
			{name: "icmp_error", what: "ICMP error that quotes the flow", prog: lvx, traffic: errors, packets: n,
				verdict: bpf.ICMPForwarded},
			{name: "fragment/first", what: "first fragment, 1,000 datagrams", prog: lvx, packets: n,
				traffic: uniform(firstFragment(), clients*flowsPerClient), verdict: forwarded},
			{name: "fragment/later", what: "later fragment, 1,000 datagrams", prog: lvx, packets: n, verdict: forwarded,
				traffic: uniform(laterFragment(), clients*flowsPerClient),
				before:  func(r *rig) error { return r.walk(r.prog, sequence(firstFragment(), 0).clientEach(), clients) }},
		},
	}}
}

// manyFlows is about cache misses.
func manyFlows(flows int, name string, chunk int) []group {
	data := uniform(tcpFrame(ack), flows)
	hot := skewed(tcpFrame(ack), flows)
	return []group{{
		name: name + " flows", state: services(1, 2),
		prepare: func(r *rig) error {
			if err := r.fillFloor(data, flows); err != nil {
				return err
			}
			return r.establish(data, flows)
		},
		lanes: []lane{
			{name: "floor_b/" + name, what: "floor B, " + name + " flows", prog: floorB, traffic: data, packets: chunk},
			{name: "established/" + name, what: "established TCP, " + name + " flows", prog: lvx, traffic: data, packets: chunk, verdict: forwarded},
			{name: "floor_b/" + name + "_skewed", what: "floor B, " + name + " flows, skewed", prog: floorB, traffic: hot, packets: chunk},
			{name: "established/" + name + "_skewed", what: "established TCP, " + name + " flows, skewed", prog: lvx, traffic: hot, packets: chunk, verdict: forwarded},
		},
	}, {
		name: name + " flows, stateless", // of no service: that of before is gone
		prepare: func(r *rig) error {
			_ = r.forget()
			if err := r.apply(with(services(1, 2), stateless)); err != nil {
				return err
			}
			if st, err := r.lvx.Stats(); err != nil || st.Services[0].Rows == 0 || st.Services[0].UnsettledRows > 0 {
				return fmt.Errorf("rows that are not settled: %+v, %v", st.Services, err)
			}
			return r.fillFloor(data, flows)
		},
		lanes: []lane{
			{name: "floor_b/" + name + "_rows", what: "floor B, " + name + " flows, beside a stateless service", prog: floorB, traffic: data, packets: chunk},
			{name: "stateless/" + name + "_rows", what: "stateless mh, " + name + " flows", prog: lvx, traffic: data, packets: chunk, verdict: forwarded},
		},
	}}
}

// newFlows is about insertion, and what a flood does to it.
func newFlows(chunk int) []group {
	const more = 16 * million // flows from here on are new
	// More flows than the table has places: four ways in each of a million sets.
	const places = 5 * million
	state := services(1, 2)
	into := func(name, what string, t traffic, before func(*rig) error) lane {
		return lane{name: name, what: what, prog: lvx, traffic: t, packets: chunk, before: before, verdict: forwarded}
	}
	fresh := sequence(tcpFrame(syn), more)
	return []group{
		{
			name: "new flows, full table", state: state,
			prepare: func(r *rig) error {
				_ = r.forget()
				if err := r.walk(r.raw.StoreLru, uniform(tcpFrame(syn), 1), places); err != nil {
					return err
				}
				return r.establish(uniform(tcpFrame(syn), 1), places)
			},
			lanes: []lane{
				{name: "lru_insert", what: "insert into a full LRU_HASH", prog: storeLRU, traffic: fresh, packets: chunk},
				into("syn/full", "new SYN, table full of established flows", fresh, nil),
			},
		},
		{
			name: "new flows, flooded table", state: state,
			prepare: func(r *rig) error {
				_ = r.forget()
				return r.walk(r.prog, uniform(tcpFrame(syn), 1), places)
			},
			lanes: []lane{into("syn/flooded", "new SYN, table full of half-open flows", fresh, nil)},
		},
		{
			name: "new flows, empty table", state: with(state, alsoUDP),
			lanes: []lane{
				into("syn/empty", "new SYN, empty table", fresh, (*rig).forget),
				into("udp/new", "new UDP flow, empty table", sequence(udpFrame(), more), (*rig).forget),
			},
		},
	}
}

// persistence is about templates. A hit is a new connection of a client that
// has one, so the flows are forgotten before each chunk.
func persistence(chunk int) []group {
	first := sequence(tcpFrame(syn), 0)
	hit := func(name, what string, change func(*lb.Service), t traffic) group {
		return group{name: what, state: with(services(1, 2), change), lanes: []lane{{
			name: name + "/hit", what: what + ": new SYN, template hit", prog: lvx, traffic: t, packets: chunk, same: true,
			before: func(r *rig) error {
				_ = r.forgetTemplates()
				if err := r.walk(r.prog, t, chunk); err != nil {
					return err
				}
				return r.forget()
			}, verdict: forwarded,
		}}}
	}
	single := hit("persistence", "persistence", persistent, first)
	single.lanes = append(single.lanes, lane{
		name: "persistence/new", what: "persistence: new SYN, new template", prog: lvx, traffic: first.clientEach(), packets: chunk, same: true,
		before: (*rig).forgetTemplates, verdict: forwarded,
	})
	return []group{
		single,
		hit("group", "group of two ports", both, first.ports(80, 443)),
		hit("pcc", "every port (PCC)", everyPort, first.ports(80, 8080)),
	}
}

// scales is about the size of the configuration.
func scales(chunk int) []group {
	// In turn, as the others are, though each needs tables of its own: a
	// shared cache is not the same for long.
	over := func(name, what string, n, reals int) lane {
		data := uniform(tcpFrame(ack), million).overVIPs(n)
		state := services(n, reals)
		return lane{
			name: name, what: "established TCP, 1M flows, " + what, prog: lvx, traffic: data, packets: chunk, verdict: forwarded,
			before: func(r *rig) error {
				if err := r.apply(state); err != nil {
					return err
				}
				_ = r.forget()
				return r.establish(data, million)
			},
		}
	}
	deny := func(name, what string, prefixes int) group {
		data := uniform(tcpFrame(ack), 1)
		return group{
			name: what, state: with(services(1, 2), denying(prefixes)),
			prepare: func(r *rig) error { _ = r.forget(); return r.establish(data, 1) },
			lanes:   []lane{{name: name, what: "established TCP, 1 flow, " + what, prog: lvx, traffic: data, packets: 4 * chunk, verdict: forwarded}},
		}
	}
	return []group{
		{name: "sizes of the configuration", lanes: []lane{
			over("services/1x2", "1 service x 2 reals", 1, 2),
			over("services/1000x12", "1,000 services x 12 reals", 1000, 12),
			over("services/10000x4", "10,000 services x 4 reals", 10000, 4),
			over("reals/1000", "1 service x 1,000 reals", 1, 1000),
		}},
		deny("deny/0", "no deny list", 0),
		deny("deny/100000", "deny list of 100,000 prefixes", 100_000),
	}
}
