/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way back: replies by NAT of proven flows, as in fast.h.
 */
#pragma once

#include "glance.h"
#include "reply.h"

/*
 * The source's port is another one now, and the checksum follows: translate_transport
 * for what has been found to be as long as TCP's shortest packet.
 */
static __always_inline int translate_source(const struct glance *g, const struct interface *me,
					    void *end, __u32 length, const struct translation *t)
{
	void *l4 = g->data + ETHER + IP_HEADER;
	__u8 protocol = g->ip->protocol;
	__u16 *check = l4 + (protocol == IPPROTO_TCP ? 16 : 6);

	if ((void *)(check + 1) > end)
		return 1; /* the verifier asks */
	translate_check(check, protocol, t, is_unfinished(me, g->ip, *check, length - IP_HEADER));
	*(__be16 *)l4 = t->to_port;
	return 0;
}

/* A reply of a proven flow leaves: what send_on does for the other way. */
static __always_inline int send_back(const struct glance *g, void *end, const struct translation *t,
				     __u64 *place, __u64 value)
{
	__u32 slot = interface_slot, length = bpf_ntohs(g->ip->tot_len);
	struct interface *me = bpf_map_lookup_elem(&interfaces, &slot);
	__u64 now = clock_now(g->s), hop[3];

	if (!me || g->ip->ttl <= 1 || find_hop_fast(g->ctx, g->s, hop, t->to, g->ip->daddr, length))
		return CONTINUE;
	if (flow_age(value, now)) {
		if (flow_is_expired(g->s, value, now))
			return CONTINUE;
		store_16(&place[WAYS], now);
	}
	if (translate_source(g, me, end, length, t))
		return CONTINUE;
	count_reply(value_real(value), length);
	decrease_ttl(g->ip);
	translate_address(g->ip, t, 1);
	return leave_by(g->ctx, g->data, hop, VERDICT_REPLIED);
}

/* One of a reply's two words. */
static __always_inline __u64 reply_part(const struct reply *at, int i)
{
	return ((const __u64 *)at)[i];
}

/*
 * The second word of the first place of replies that has this source, if it is in
 * the first line of its search; else 0. The flow decides whether it is the right
 * one, as on the long way, which begins with the same place.
 */
static __always_inline __u64 find_first_reply(const struct settings *s, __u64 wanted)
{
	struct reply_line *line = reply_line_at(s->half, wanted, 0);
	__u64 found = 0;

#pragma unroll
	for (int w = 0; line && w < REPLY_WAYS; w++) {
		if (reply_part(&line->way[w], 0) != wanted)
			continue;
		found = reply_part(&line->way[w], 1);
		break;
	}
	asm volatile(""
		     : "+r"(found)); /* the same for the verifier, whichever it was */
	return found;
}

/* Data of a proven flow, as in fast.h. */
static __always_inline int short_way_back(const struct glance *g, void *end)
{
	__be16 port = *(__be16 *)(g->data + ETHER + 20), client = *(__be16 *)(g->data + ETHER + 22);
	__u64 from = find_first_reply(g->s, reply_word(g->ip->saddr, port, g->ip->protocol));
	__be32 address = from;
	__u16 number = from >> 48;
	struct reply source = { .source = g->ip->saddr, .port = port };
	struct translation t = { .from = g->ip->saddr, .from_port = port };
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
	vip = find_vip_in(g->s, address, 0, &more);
	if (!vip || (vip->flags && (vip->flags != VIP_LEASED || !lease_is_alive(vip))))
		return CONTINUE;
	vip_port = (__be16)(from >> 32) ?: port;
	key = flow_key(g->ip->daddr, client, number);
	hash = flow_hash(g->s, g->ip->daddr, client, address, vip_port);
	set = first_flow_set(hash);
	if (!set)
		return CONTINUE;
	place = (void *)set + set_offset_of(set, key);
	value = READ_ONCE_64(place[WAYS]);
	if (READ_ONCE_64(place[0]) != key) {
		set = second_flow_set(hash);
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
	t.to = address;
	t.to_port = vip_port;
	return send_back(g, end, &t, place, value);
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

	g.s = get_settings();
	g.ip = g.data + ETHER;
	if (g.data + ETHER + 40 <= end &&
	    (*(__u32 *)(g.data + 12) & 0x00ffffff) == 0x450008 &&
	    (g.ip->protocol == IPPROTO_TCP || g.ip->protocol == IPPROTO_UDP))
		outcome = short_way_back(&g, end);
	return outcome;
}
