/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of NAT: what its replies are known by, how they leave, and how many
 * there were.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "counts.h"
#include "types.h"

/* Of replies by NAT, apart from counters: direct routing has none. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REALS);
	__type(key, __u32);
	__type(value, struct reply_counter);
} reply_counters SEC(".maps");

/* By the real's address, port and protocol; in halves. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * REPLY_LINES);
	__type(key, __u32);
	__type(value, struct reply_line);
} replies SEC(".maps");

/* In halves, too: what the kernel need not be asked. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct route_list);
} routes SEC(".maps");

/* The ways out that the kernel names by the interface of a VLAN, by its index. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WAYS_OUT);
	__type(key, __u32);
	__type(value, struct way_out);
} ways SEC(".maps");
