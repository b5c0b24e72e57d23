/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * VLANs of an interface (802.1Q). The program is on the interface below them and
 * sees tagged frames; a way out names that interface and the VLAN in one word.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "packet.h"

static __always_inline int is_tagged(const void *data)
{
	__be16 type = *(__be16 *)(data + 12);

	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Whether the interface is served for its VLANs, so that not every frame is looked at. */
static __always_inline int has_vlans(const struct interface *me)
{
	return !(me->vlans[TWO_TAGS >> 6] >> (TWO_TAGS & 63));
}

/*
 * Whether frames of this frame's VLAN are looked at; where it has two tags, they are not. A
 * global function: it is verified once.
 */
__attribute__((noinline)) int is_vlan_served(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 slot = interface_slot, id = 0, word;
	struct interface *me = bpf_map_lookup_elem(&interfaces, &slot);
	struct vlan_tag *tag = data + ETHER;

	if (!me || (void *)(tag + 1) > end)
		return 0;
	if (is_tagged(data)) {
		id = bpf_ntohs(tag->tci) & VLAN_MOST;
		if (tag->type == bpf_htons(ETH_P_8021Q) || tag->type == bpf_htons(ETH_P_8021AD))
			id = TWO_TAGS;
	}
	word = id >> 6;
	/* Linux 6.1 does not see that it is small: the mask has to stay. */
	asm volatile(""
		     : "+r"(word));
	return me->vlans[word & (VLANS / 64 - 1)] >> (id & 63) & 1;
}

/* Move both MACs by so many bytes, and the frame's start with them. 0 if there was room. */
static __always_inline int shift_macs(struct xdp_md *ctx, int by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 first;
	__u32 rest;

	if (data + ETHER + 4 > end)
		return 1;
	first = *(__u64 *)data;
	rest = *(__u32 *)(data + 8);
	if (bpf_xdp_adjust_head(ctx, by))
		return 1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ETHER + 4 > end)
		return 1;
	*(__u64 *)data = first;
	*(__u32 *)(data + 8) = rest;
	return 0;
}

/*
 * The frame, which is complete but for its tag, leaves by a way with a VLAN: that of
 * enum way_part. A priority stays. A global function: it is verified once.
 */
__attribute__((noinline)) int leave_tagged(struct xdp_md *ctx, __u32 way, __u32 verdict)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 device = way & WAY_DEVICE, id = way >> WAY_VLAN_SHIFT;
	__be16 *tag;

	if (data + ETHER + 4 > end)
		return DROP(VERDICT_NO_HEADROOM);
	if (is_tagged(data) != (id != UNTAGGED)) {
		if (shift_macs(ctx, id == UNTAGGED ? 4 : -4))
			return DROP(VERDICT_NO_HEADROOM);
		if (verdict == VERDICT_FORWARDED)
			verdict = VERDICT_REDIRECTED;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		if (data + ETHER + 4 > end)
			return DROP(VERDICT_NO_HEADROOM);
		if (id != UNTAGGED) {
			*(__be16 *)(data + 12) = bpf_htons(ETH_P_8021Q);
			*(__be16 *)(data + ETHER) = bpf_htons(id);
		}
	} else if (id != UNTAGGED) {
		tag = data + ETHER;
		if (verdict == VERDICT_FORWARDED && (bpf_ntohs(*tag) & VLAN_MOST) != id)
			verdict = VERDICT_REDIRECTED;
		*tag = (*tag & bpf_htons(0xf000)) | bpf_htons(id);
	}
	if (device == ctx->ingress_ifindex)
		return OUTCOME(verdict, XDP_TX);
	if (verdict == VERDICT_FORWARDED)
		verdict = VERDICT_REDIRECTED;
	return OUTCOME(verdict, bpf_redirect(device, 0));
}
