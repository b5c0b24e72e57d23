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

/*
 * The route that a packet to the client takes, of those that are known here. Its
 * words are read where it is found: what follows is then the same for the
 * verifier, whichever it was.
 */
static __always_inline void find_route(const struct settings *s, __be32 client, struct hop *h)
{
	__u32 half = s->half & 1;
	struct route_list *list = bpf_map_lookup_elem(&routes, &half);
	__u64 a = 0, b = 0, c = 0;

	if (!list)
		return;
#pragma unroll
	for (int i = 0; i < ROUTES; i++) {
		struct route *r = &list->way[i];

		if (r->hop.kind != ROUTE_END && (client & r->mask) != r->network)
			continue;
		a = ((__u64 *)&r->hop)[0];
		b = ((__u64 *)&r->hop)[1];
		c = ((__u64 *)&r->hop)[2];
		asm volatile(""
			     : "+r"(a), "+r"(b), "+r"(c));
		break;
	}
	((__u64 *)h)[0] = a;
	((__u64 *)h)[1] = b;
	((__u64 *)h)[2] = c;
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
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	int found;

	if (!h || !s)
		return VERDICT_NO_WAY_BACK;
	find_route(s, client, h);
	if (h->kind == ROUTE_GATEWAY)
		return length > h->mtu ? VERDICT_ANSWERED_TOO_BIG : VERDICT_REPLIED;
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

/* The same without a call where the kernel need not be asked. */
static __always_inline int find_hop_fast(struct xdp_md *ctx, const struct settings *s, struct hop *h,
					 __be32 source, __be32 client, __u32 length)
{
	find_route(s, client, h);
	if (h->kind != ROUTE_GATEWAY)
		return find_hop(ctx, h, source, client, length);
	return length > h->mtu ? VERDICT_ANSWERED_TOO_BIG : VERDICT_REPLIED;
}

static __always_inline int leave_by(struct xdp_md *ctx, void *data, const struct hop *h,
				    int verdict)
{
	*(__u64 *)data = *(__u64 *)h->mac; /* and the source's first two bytes */
	*(__u32 *)(data + 8) = *(__u32 *)(h->source + 2);
	if (h->ifindex == ctx->ingress_ifindex)
		return OUTCOME(verdict, XDP_TX);
	if (h->ifindex >> WAY_VLAN_SHIFT)
		return leave_tagged(ctx, h->ifindex, verdict);
	return OUTCOME(verdict, bpf_redirect(h->ifindex, 0));
}
