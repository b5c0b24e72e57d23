/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is fixed when the program is loaded. The verifier knows these values,
 * so a mask costs nothing and a wrong one cannot be loaded.
 */
#pragma once

#include "types.h"

/* Number of this program's interface in interfaces. */
volatile const __u32 interface_slot = 0;

/* The interface's MAC; not a constant, it may get another one. */
volatile __u64 own_mac;

/* The number of sets, even; with IN_PIECES if the flow table is in pieces. */
volatile const __u32 flow_sets = 1048576;
#define IN_PIECES 0x80000000u

/* Where in a piece its sets begin: with them a cache line begins. */
volatile const __u32 piece_pad = 8;

volatile const __u32 template_sets = 65536;

volatile const __u32 possible_cpus = 1;

/* The same of tables that are left behind, whose words are today's; 0: there are none. */
volatile const __u32 old_flow_sets = 0;
volatile const __u32 old_template_sets = 0;

/* Flows are left behind whose words are not today's. */
volatile const __u32 flows_are_unread = 0;

/* Whether a flow may be in a table that is left behind. */
static __always_inline int is_moving(void)
{
	return old_flow_sets || flows_are_unread;
}

/*
 * A tick is 2^tick_shift jiffies: about a second. The loader computes it from
 * the kernel's HZ. Ticks are counted in 16 bits where flows are concerned, so
 * no timeout may be longer than half a round (9 h).
 */
volatile const __u32 tick_shift = 8;
volatile const __u32 jiffies_per_second = 250;

/* A template that outlived its timeout lives on by 60 s at a time: in ticks. */
volatile const __u32 renewal_ticks = 59;

/* A note of where a datagram's fragments go holds so long: net.ipv4.ipfrag_time, in ticks. */
volatile const __u32 fragment_ticks = 30;

/* An enum that no map mentions would not be in BTF, so neither in Go. */
volatile const enum verdict names_of_verdicts = 0;
volatile const enum eviction names_of_evictions = 0;
volatile const enum flow_state names_of_states = 0;
volatile const enum vip_flag names_of_vip_flags = 0;
volatile const enum real_flag names_of_real_flags = 0;
volatile const enum forward_method names_of_forward_methods = 0;
volatile const enum route_kind names_of_route_kinds = 0;
volatile const enum table_size names_of_table_sizes = 0;
volatile const enum real_index names_of_real_indices = 0;
volatile const enum filter_scope names_of_filter_scopes = 0;
volatile const enum row_state names_of_row_states = 0;
volatile const enum way_part names_of_way_parts = 0;
volatile const enum outer_choice names_of_outer_choices = 0;
struct held_frame *volatile const names_of_held_frames = 0;
struct row_value *volatile const names_of_row_values = 0;
