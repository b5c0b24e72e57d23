/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps that only IPv6 has, and only where it is served. */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "types.h"

/* A set of IPv6: the key names the client, whose address is in a line of its own. */
struct flow_set6 {
	struct flow_key key[WAYS];
	struct flow_value value[WAYS];
	struct address client[WAYS];
};

struct template_set6 {
	struct template_key key[WAYS];
	struct template_value value[WAYS];
	struct address network[WAYS]; /* masked */
};

struct fragment_key6 {
	struct address source;
	struct address destination;
	__be32 id;
	__u32 protocol;
};

/* max_entries as of flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1048576);
	__type(key, __u32);
	__type(value, struct flow_set6);
} flows6 SEC(".maps");

/* As flow_piece and flow_pieces. */
struct flow_piece6 {
	struct flow_set6 set[PIECE_LINES / 2];
	__u64 room[2 * WAYS];
};
struct flow_piece6 *volatile const names_of_flow_pieces6 = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__type(key, __u32);
			__type(value, struct flow_piece6);
		});
} flow_pieces6 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct template_set6);
} templates6 SEC(".maps");

/* Tables that are left behind (moved.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_set6);
} old_flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__type(key, __u32);
			__type(value, struct flow_piece6);
		});
} old_flow_pieces6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct template_set6);
} old_templates6 SEC(".maps");

/* As flow_news and template_news. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1048576 / NEWS_LINE_SETS);
	__type(key, __u32);
	__type(value, struct news_line);
} flow_news6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536 / NEWS_LINE_SETS);
	__type(key, __u32);
	__type(value, struct news_line);
} template_news6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct fragment_key6);
	__type(value, struct fragment);
} fragments6 SEC(".maps");

/* What is behind extension headers. */
struct extensions {
	__u32 at; /* in: offset of the first; out: of what follows them */
	__u32 next; /* in: its kind; out: the protocol */
	__be16 fragment;
	__be16 spare;
	__be32 id;
};

/* The addresses of the packet that this CPU works on: the stack has no room. */
struct addresses6 {
	struct fragment_key6 packet; /* source, destination, and what a fragment is known by */
	struct address quoted; /* the client of the packet that an ICMP error quotes */
	struct address client; /* of the flow */
	struct address network; /* of the template */
	struct extensions extensions;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct addresses6);
} addresses6 SEC(".maps");
