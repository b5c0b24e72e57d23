/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, and why it is of its kind.
 *
 * Nearly all are plain arrays that user space lays out and maps into its
 * memory: an array lookup is inlined, a hash map costs ten times as much.
 * BPF_F_MMAPABLE matters even where nobody maps the memory: it starts values
 * on a page, so that a 64-byte value is one cache line, not two.
 *
 * vips, ports, ranges, services, and of NAT (mapsnat.h) replies and routes, have
 * two halves. User space lays a whole configuration out in the half that is not in
 * use and then stores settings.half: packets see the old configuration or the new
 * one, never a mixture.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "counts.h"
#include "mapsnat.h"
#include "types.h"
#include "window.h"

/*
 * settings, vips and verdicts have direct addresses: no lookup, and no test for
 * null. Go makes all that such a map holds one value, and has what refers to the
 * map refer to the first of its elements (direct.go). One value is 4 MiB at most
 * (before Linux 6.0), or ports would be another.
 */
#define VALUE_OF(map)                              \
	({                                         \
		typeof((map).value) value_of_map_; \
		asm("%0 = " #map " ll"             \
		    : "=r"(value_of_map_));        \
		value_of_map_;                     \
	})

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

static __always_inline struct settings *get_settings(void)
{
	return VALUE_OF(settings);
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, INTERFACES);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * VIP_LINES);
	__type(key, __u32);
	__type(value, struct vip_line);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * PORT_LINES);
	__type(key, __u32);
	__type(value, struct port_line);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * RANGES);
	__type(key, __u32);
	__type(value, struct range);
} ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * SERVICES);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, struct cursor);
} cursors SEC(".maps");

/* By the number of the service modulo TURN_SERVICES. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TURN_SERVICES);
	__type(key, __u32);
	__type(value, struct turns);
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, RING_LINES);
	__type(key, __u32);
	__type(value, struct ring_line);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct real);
} reals SEC(".maps");

/* Of the reals: for people and for the daemon's next start. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct address);
} addresses SEC(".maps");

/* Of the reals that are behind a tunnel: direct routing does not look. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct tunnel);
} tunnels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct load);
} loads SEC(".maps");

/* Eight lines for eight reals: what each CPU counts of them is together (share_of). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct share_line);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

/* One for each CPU (possible_cpus). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct verdict_counts);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVICTIONS);
	__type(key, __u32); /* enum eviction */
	__type(value, struct tally);
} evictions SEC(".maps");

/* max_entries is set by the loader: an even number, one set per flow. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1048576);
	__type(key, __u32);
	__type(value, struct flow_set);
} flows SEC(".maps");

/*
 * A part of a large table of flows, no more than what the kernel takes from its
 * direct map: whose large pages cost no walk. What user space can map lies in
 * pages of 4 KiB. The sets begin at piece_pad (config.h), each on a cache line.
 */
struct flow_piece {
	struct flow_set set[PIECE_LINES];
	struct flow_set room;
};

/* What only an inner map mentions would not be whole in BTF. */
struct flow_piece *volatile const names_of_flow_pieces = 0;

/* The flow table in pieces, where it is large: then flows has two sets, which nobody uses. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__type(key, __u32);
			__type(value, struct flow_piece);
		});
} flow_pieces SEC(".maps");

/* Of each process that looks into pieces, its own: it is not pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_window);
} flow_window SEC(".maps");

/* Insertions of one key must not run side by side: see flow_insert. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOCKS);
	__type(key, __u32);
	__type(value, __u64);
} locks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct template_set);
} templates SEC(".maps");

/* Tables that are left behind (moved.h), or else flows and templates again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_set);
} old_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__type(key, __u32);
			__type(value, struct flow_piece);
		});
} old_flow_pieces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct template_set);
} old_templates SEC(".maps");

/* Only fragments touch it, and nothing depends on its order of eviction. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1048576);
	__type(key, struct filter_key);
	__type(value, enum filter_action);
} filters SEC(".maps");

/* Deadlines in jiffies; a VIP with VIP_LEASED is silent after its own. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LEASES);
	__type(key, __u32);
	__type(value, __u64);
} leases SEC(".maps");

/*
 * Until when, in jiffies, connections may be on their way here from the director that
 * had the VIPs: this one has just taken them over.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} takeover SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} answers SEC(".maps");

/* For the daemon's next start and for people. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, struct label);
} labels SEC(".maps");

/*
 * Programs of other families than IPv4, by the number of their interface. It
 * is pinned: the kernel empties it when user space holds it no more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} families SEC(".maps");

/* Apart from the tables: written by few packets, read ten times a second. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1048576 / NEWS_LINE_SETS);
	__type(key, __u32);
	__type(value, struct news_line);
} flow_news SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536 / NEWS_LINE_SETS);
	__type(key, __u32);
	__type(value, struct news_line);
} template_news SEC(".maps");

/* What absorb is to store. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct absorb_batch);
} absorptions SEC(".maps");
