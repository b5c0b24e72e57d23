/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What peer directors tell goes into the tables by the packet path's own
 * insertion, with its locks and its order of what may displace what.
 *
 * Run by BPF_PROG_TEST_RUN as an XDP program, not as one of type syscall:
 * packets that want the lock of the same key are dropped, so its holder must
 * not be preempted. At most ABSORPTIONS entries a run. A program for each
 * family.
 */
#pragma once

#include "flow.h"
#include "template.h"

static __always_inline void absorb_template(struct absorption *in)
{
	struct template_request rq = {
		.key = in->key,
		.value = in->value,
		.ticks = in->ticks,
		.action = TEMPLATE_CREATE,
	};

	if (template_use(&rq))
		in->outcome = ABSORB_NO_PLACE;
	else if (template_real(rq.value) != template_real(in->value))
		in->outcome = ABSORB_KEPT;
	else
		in->outcome = ABSORB_STORED;
}

/*
 * Have the CPU fetch both sets of each flow: side by side they take the time of
 * one. The sum is for the compiler, which leaves out what nobody uses.
 */
static __always_inline void fetch_sets(struct absorb_batch *batch)
{
	__u32 sum = 0;

	for (__u32 i = 0; i < ABSORPTIONS; i++) {
		struct absorption *entry = &batch->entry[i];
		struct set *a, *b;

		if (i >= batch->count)
			break;
		a = first_flow_set(entry->hash);
		b = second_flow_set(entry->hash);
		if (entry->kind != ABSORB_TEMPLATE && a && b)
			sum += READ_ONCE_64(a->key[0]) + READ_ONCE_64(b->key[0]);
	}
	batch->sum = sum;
}

SEC("xdp")
int absorb(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct absorb_batch *batch = bpf_map_lookup_elem(&absorptions, &zero);

	if (!batch)
		return XDP_ABORTED;
	fetch_sets(batch);
	for (__u32 i = 0; i < ABSORPTIONS; i++) {
		struct absorption *entry = &batch->entry[i];

		if (i >= batch->count)
			break;
		set_current_owner(&entry->owner);
		if (entry->kind != ABSORB_TEMPLATE)
			flow_absorb(entry);
		else
			absorb_template(entry);
	}
	return XDP_PASS;
}
