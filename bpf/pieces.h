/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How user space reads and changes a flow table in pieces (maps.h), which it
 * cannot map: by programs that it runs with BPF_PROG_TEST_RUN. Programs of each
 * family.
 */
#pragma once

#include "flow.h"

/* What a value is worth that was read before a key and again behind it: 0 if the place changed hands. */
static __always_inline __u64 if_unchanged(__u64 before, __u64 again)
{
	return again & if_zero((before ^ again) & NONCE_MASK, ~0ULL) &
	       ~if_zero(value_code(before) ^ STATE_BUSY, ~0ULL);
}

static __always_inline void read_set(struct set *set, __u64 *to)
{
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		__u64 before = READ_ONCE_64(set->value[i]);

		store_64(&to[i], READ_ONCE_64(set->key[i]));
		if (HAS_OWNERS) {
			__u64 *owner = (__u64 *)owners_of(set)[i].word;

			store_64(&to[2 * WAYS + 2 * i], READ_ONCE_64(owner[0]));
			store_64(&to[2 * WAYS + 2 * i + 1], READ_ONCE_64(owner[1]));
		}
		store_64(&to[WAYS + i], if_unchanged(before, READ_ONCE_64(set->value[i])));
	}
}

SEC("xdp")
int read_flows(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct flow_window *w = bpf_map_lookup_elem(&flow_window, &zero);

	if (!w)
		return XDP_ABORTED;
	for (__u32 i = 0; i < FLOW_READS * 64 / SET_BYTES; i++) {
		struct set *set;
		__u32 number;

		if (i >= w->sets)
			break;
		number = w->set[i];
		set = set_in_pieces(&FLOW_PIECES, &number);
		if (!set)
			return XDP_ABORTED;
		read_set(set, &w->word[i * (SET_BYTES / 8)]);
	}
	return XDP_PASS;
}

SEC("xdp")
int change_flows(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct flow_window *w = bpf_map_lookup_elem(&flow_window, &zero);

	if (!w)
		return XDP_ABORTED;
	for (__u32 i = 0; i < FLOW_CHANGES; i++) {
		struct flow_change *change = &w->change[i];
		__u32 number = change->set;
		struct set *set;

		if (i >= w->changes)
			break;
		set = set_in_pieces(&FLOW_PIECES, &number);
		if (!set)
			return XDP_ABORTED;
		change->found = swap_64(&set->value[change->way & (WAYS - 1)], change->old, change->value);
	}
	return XDP_PASS;
}
