/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tunnels: the packet as it is becomes what another IP packet carries to the
 * real (net/netfilter/ipvs/ip_vs_xmit.c, ip_vs_tunnel_xmit). The outer header
 * has TTL, TOS and DF of the inner one, whose TTL is one less by then. What does
 * not change from packet to packet, user space has worked out (struct tunnel).
 *
 * XDP cannot fragment the outer packet: what is too long for the way is
 * answered or dropped before (struct real: its mtu is less by the overhead).
 */
#pragma once

#include <linux/ip.h>

#include "answer.h"
#include "forward_dr.h"
#include "maps.h"
#include "packet.h"

#define IPIP_OVERHEAD 20 /* as much as the outer header has */
#define OUTER_DONT_FRAGMENT 0x4000

/* The outer header in front of the inner one: IPv4 in IPv4. */
static __always_inline void fill_outer(struct iphdr *outer, const struct iphdr *inner,
				       const struct tunnel *t)
{
	__u16 dont_fragment = inner->frag_off & bpf_htons(OUTER_DONT_FRAGMENT);
	/* ip_select_ident: what nobody may fragment needs no identification. */
	__u16 id = dont_fragment ? 0 : bpf_get_prandom_u32();
	__u16 length = bpf_htons(bpf_ntohs(inner->tot_len) + IPIP_OVERHEAD);
	__u8 tos = inner->tos, ttl = inner->ttl;

	*(__u16 *)outer = bpf_htons(0x4500 | tos);
	outer->tot_len = length;
	outer->id = id;
	outer->frag_off = dont_fragment;
	outer->ttl = ttl;
	outer->protocol = IPPROTO_IPIP;
	outer->check = fold_sum(t->sum + bpf_htons(tos) + length + id + dont_fragment +
				bpf_htons(ttl << 8));
	outer->saddr = t->source.word[3];
	outer->daddr = t->destination.word[3];
}

/*
 * Make the frame one that carries its packet, whose header is at ip and whose
 * TTL is already one less, to the real. 0 if there was room. The pointers into the frame
 * are void behind it.
 */
static __always_inline int encapsulate(struct xdp_md *ctx, const struct real *real,
				       const struct tunnel *t, __u32 ip)
{
	void *data, *end;
	struct iphdr *outer;

	if (bpf_xdp_adjust_head(ctx, -IPIP_OVERHEAD))
		return 1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ETHER + 2 * IPIP_OVERHEAD > end)
		return 1;
	*(__u16 *)(data + 12) = *(__u16 *)(data + IPIP_OVERHEAD + 12);
	if (ip > ETHER) { /* tags */
		*(__u32 *)(data + 14) = *(__u32 *)(data + IPIP_OVERHEAD + 14);
		*(__u32 *)(data + 18) = *(__u32 *)(data + IPIP_OVERHEAD + 18);
	}
	outer = data + (ip & 31);
	if ((void *)(outer + 2) > end)
		return 1;
	fill_outer(outer, outer + 1, t);
	rewrite_macs(data, real);
	return 0;
}
