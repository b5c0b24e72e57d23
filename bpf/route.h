/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of replies by NAT to their clients: by a router whose MAC user space
 * knows, or as the kernel's routes and neighbours have it.
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "vlan.h"

#define AF_INET 2

/* The verdict on a reply that cannot go: the kernel has no way, or has to ask for a MAC. */
static __always_inline int verdict_of_fib(int answer)
{
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return VERDICT_REPLY_HANDED_ON;
	if (answer == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return VERDICT_ANSWERED_TOO_BIG;
	return VERDICT_NO_WAY_BACK;
}

/* One of a hop's three words. */
static __always_inline __u64 hop_word(const struct hop *h, int i)
{
	return ((const __u64 *)h)[i];
}

/* What the third of them tells. */
static __always_inline enum route_kind word_kind(__u64 third)
{
	return third >> 32;
}

static __always_inline __u32 word_mtu(__u64 third)
{
	return third;
}

/*
 * The words of the hop to a client, of those that are known here. They are read
 * where the route is found: what follows is then the same for the verifier,
 * whichever it was.
 */
static __always_inline void find_route(const struct settings *s, __be32 client, __u64 *word)
{
	__u32 half = s->half & 1;
	struct route_list *list = bpf_map_lookup_elem(&routes, &half);
	__u64 a = 0, b = 0, c = 0;

#pragma unroll
	for (int i = 0; list && i < ROUTES; i++) {
		struct route *r = &list->way[i];

		if (r->hop.kind != ROUTE_END && (client & r->mask) != r->network)
			continue;
		a = hop_word(&r->hop, 0);
		b = hop_word(&r->hop, 1);
		c = hop_word(&r->hop, 2);
		asm volatile(""
			     : "+r"(a), "+r"(b), "+r"(c));
		break;
	}
	word[0] = a;
	word[1] = b;
	word[2] = c;
}

/*
 * Where a packet of so many bytes (0: of any number) goes from source to client:
 * VERDICT_REPLIED, or what becomes of it. A global function: it is verified
 * once.
 */
__attribute__((noinline)) int find_hop(struct xdp_md *ctx, struct hop *h, __be32 source,
				       __be32 client, __u32 length)
{
	struct bpf_fib_lookup f = {
		.family = AF_INET,
		.tot_len = length,
		.ifindex = ctx->ingress_ifindex,
		.ipv4_src = source,
		.ipv4_dst = client,
	};
	struct settings *s = get_settings();
	int found;

	if (!h)
		return VERDICT_NO_WAY_BACK;
	find_route(s, client, (__u64 *)h);
	if (h->kind == ROUTE_GATEWAY)
		return length > h->mtu ? VERDICT_ANSWERED_TOO_BIG : VERDICT_REPLIED;
	if (h->mtu && length > h->mtu) /* which the kernel is not asked for: it would tell a locked one alone */
		return VERDICT_ANSWERED_TOO_BIG;
	found = bpf_fib_lookup(ctx, &f, sizeof(f), 0);
	h->mtu = f.mtu_result;
	h->ifindex = f.ifindex;
	if (s->flags & SETTING_WAYS) {
		struct way_out *out = bpf_map_lookup_elem(&ways, &f.ifindex);

		if (out)
			h->ifindex = out->way;
	}
	if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return verdict_of_fib(found);
	__builtin_memcpy(h->mac, f.dmac, 6);
	__builtin_memcpy(h->source, f.smac, 6);
	return VERDICT_REPLIED;
}

/*
 * The same without a call where the kernel need not be asked: a hop's words. 0 if
 * the packet can go there.
 */
static __always_inline int find_hop_fast(struct xdp_md *ctx, const struct settings *s, __u64 *word,
					 __be32 source, __be32 client, __u32 length)
{
	struct hop h;

	find_route(s, client, word);
	if (word_kind(word[2]) == ROUTE_GATEWAY)
		return length > word_mtu(word[2]);
	if (find_hop(ctx, &h, source, client, length) != VERDICT_REPLIED)
		return 1;
	word[0] = hop_word(&h, 0);
	word[1] = hop_word(&h, 1);
	return 0;
}

/* The frame, whose packet is as it has to be, leaves by a hop, of which these are the words. */
static __always_inline int leave_by(struct xdp_md *ctx, void *data, const __u64 *word, int verdict)
{
	__u32 ifindex = word[1] >> 32;

	*(__u64 *)data = word[0]; /* and the source's first two bytes */
	*(__u32 *)(data + 8) = word[1];
	if (ifindex == ctx->ingress_ifindex)
		return OUTCOME(verdict, XDP_TX);
	if (ifindex >> WAY_VLAN_SHIFT)
		return leave_tagged(ctx, ifindex, verdict);
	return OUTCOME(verdict, bpf_redirect(ifindex, 0));
}
