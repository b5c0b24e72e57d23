/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The generators in front of other ways of forwarding than direct routing. A
 * tunnel makes the frame longer, and prog-run's next one is written where it was:
 * first the head is put back to where it belongs, by a call that costs the same
 * when it is there.
 *
 *   regenerate  any flow, as generate
 *   rewalk      one flow after the other, as walk
 *   reply       what the real of the plan's address and port sends to any flow's client
 */
#pragma once

static __always_inline int put_head_back(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, (long)ctx->data_end - (long)ctx->data - SHORT);
}

SEC("xdp.frags")
int regenerate(struct xdp_md *ctx)
{
	struct plan *p = the_plan();

	if (p && !put_head_back(ctx) && write_frame(ctx, p, any_flow(p)))
		bpf_tail_call(ctx, &slots, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int rewalk(struct xdp_md *ctx)
{
	struct plan *p = the_plan();

	if (p && !put_head_back(ctx) && write_frame(ctx, p, p->next)) {
		p->next += p->step;
		bpf_tail_call(ctx, &slots, 0);
	}
	return XDP_ABORTED;
}

/* Source and destination, and their ports, change places. */
static __always_inline int turn_round(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	__u32 *ports = data + ETHER + 20, *addresses = data + ETHER + 12;
	__u32 source;

	if (data + SHORT > (void *)(long)ctx->data_end)
		return 0;
	source = addresses[0];
	addresses[0] = addresses[1];
	addresses[1] = source;
	*ports = *ports << 16 | *ports >> 16;
	return 1;
}

SEC("xdp.frags")
int reply(struct xdp_md *ctx)
{
	struct plan *p = the_plan();

	if (p && !put_head_back(ctx) && write_frame(ctx, p, any_flow(p)) && turn_round(ctx))
		bpf_tail_call(ctx, &slots, 0);
	return XDP_ABORTED;
}
