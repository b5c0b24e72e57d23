/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way back: replies by NAT of proven flows, as in fast.h.
 */
#pragma once

#include "glance.h"
#include "reply.h"

/* A reply of a proven flow leaves: what send_on does for the other way. */
static __always_inline int send_back(const struct glance *g, const struct reply *from, __u64 *place,
				     __u64 value, __u32 at)
{
	void *end = (void *)(long)g->ctx->data_end, *l4 = g->data + ETHER + IP_HEADER;
	__u32 slot = interface_slot, length = bpf_ntohs(g->ip->tot_len);
	struct interface *me = bpf_map_lookup_elem(&interfaces, &slot);
	struct hop hop = {};
	struct translation t = {
		.from = g->ip->saddr,
		.to = from->vip,
		.from_port = *(__be16 *)l4,
	};
	__u64 now = clock_now(g->s);

	t.to_port = from->vip_port ?: t.from_port;
	if (!me || g->ip->ttl <= 1 ||
	    find_hop_fast(g->ctx, g->s, &hop, from->vip, g->ip->daddr, length) != VERDICT_REPLIED)
		return CONTINUE;
	if (flow_age(value, now)) {
		if (flow_is_expired(g->s, value, now))
			return CONTINUE;
		store_16(&place[WAYS], now);
	}
	if (translate_transport(me, g->ip, l4, end, length - IP_HEADER, &t, 1))
		return CONTINUE;
	count_reply(at, length);
	decrease_ttl(g->ip);
	translate_address(g->ip, &t, 1);
	return leave_by(g->ctx, g->data, &hop, VERDICT_REPLIED);
}

/* The place of replies that has this source, if the first line of its search has it alone. */
static __always_inline const struct reply *find_only_reply(const struct settings *s, __u64 wanted)
{
	struct reply_line *line = reply_line_at(s->half, wanted, 0);
	const struct reply *found = 0;

	if (!line || line->way[REPLY_WAYS - 1].protocol)
		return 0;
#pragma unroll
	for (int w = 0; w < REPLY_WAYS - 1; w++) {
		if (*(__u64 *)&line->way[w] != wanted)
			continue;
		if (found)
			return 0;
		found = &line->way[w];
	}
	return found;
}

/* Data of a proven flow, as in fast.h. */
static __always_inline int short_way_back(const struct glance *g)
{
	__be16 port = *(__be16 *)(g->data + ETHER + 20), client = *(__be16 *)(g->data + ETHER + 22);
	const struct reply *from = find_only_reply(g->s, reply_word(g->ip->saddr, port, g->ip->protocol));
	struct reply source = { .source = g->ip->saddr, .port = port };
	__u64 key, hash, value, *place;
	struct set *set;
	struct vip *vip;
	__be16 vip_port;
	int more;

	if (!from || !is_complete(g, 40) || g->ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE))
		return CONTINUE;
	if (g->ip->protocol == IPPROTO_TCP &&
	    (*(__u8 *)(g->data + ETHER + 33) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
		return CONTINUE;
	vip = find_vip_in(g->s, from->vip, 0, &more);
	if (!vip || (vip->flags && (vip->flags != VIP_LEASED || !lease_is_alive(vip))))
		return CONTINUE;
	vip_port = from->vip_port ?: port;
	key = flow_key(g->ip->daddr, client, from->number);
	hash = flow_hash(g->s, g->ip->daddr, client, from->vip, vip_port);
	set = flow_set(first_set(hash, flow_sets));
	if (!set)
		return CONTINUE;
	place = (void *)set + set_offset_of(set, key);
	value = READ_ONCE_64(place[WAYS]);
	if (READ_ONCE_64(place[0]) != key) {
		set = flow_set(second_set(hash, flow_sets));
		if (!set)
			return CONTINUE;
		place = (void *)set + set_offset_of(set, key);
		value = READ_ONCE_64(place[WAYS]);
		if (READ_ONCE_64(place[0]) != key)
			return CONTINUE;
	}
	if ((value ^ (FAST_KIND | (__u64)vip_port << PORT_SHIFT)) & FAST_MASK ||
	    (READ_ONCE_64(place[WAYS]) ^ value) & IDENTITY || !is_to(value, &source))
		return CONTINUE;
	return send_back(g, from, place, value, value_real(value));
}

/*
 * With MAYBE_REPLY: a reply by NAT, or the kernel's; CONTINUE if that takes the
 * long way to find out. A global function: verified alone.
 */
__attribute__((noinline)) int way_back(struct xdp_md *ctx)
{
	struct glance g = { .ctx = ctx, .data = (void *)(long)ctx->data };
	void *end = (void *)(long)ctx->data_end;
	int outcome = CONTINUE;
	__u32 zero = 0;

	g.s = bpf_map_lookup_elem(&settings, &zero);
	if (!g.s)
		return PASS(VERDICT_NOT_OURS);
	g.ip = g.data + ETHER;
	if (g.data + ETHER + 40 <= end &&
	    (*(__u32 *)(g.data + 12) & 0x00ffffff) == 0x450008 &&
	    (g.ip->protocol == IPPROTO_TCP || g.ip->protocol == IPPROTO_UDP))
		outcome = short_way_back(&g);
	return outcome;
}
