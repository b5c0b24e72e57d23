/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way of the packets that are nearly all of them: data of a proven
 * flow to a real on the same segment. It decides nothing that the long way
 * would decide otherwise (a test runs both); whatever is unusual gets CONTINUE
 * and goes the long way from the start.
 *
 * At a million flows the flow's line comes from memory, and what a CPU does
 * meanwhile is the next packet, if it gets that far: its window holds some
 * three hundred instructions. Hence no branch here depends on which way of a
 * set a flow is in (a wrong guess would be known only when the line has come,
 * and everything behind it would be thrown away), and what is not needed to
 * find the line comes after it.
 */
#pragma once

#include "glance.h"

static __always_inline int short_way(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct glance g = { .ctx = ctx, .data = (void *)(long)ctx->data };
	struct ip_header *ip = g.data + ETHER;
	__u32 flags = TCP_ACK;
	struct set *second;
	__u64 value, *place;
	__u16 *number;
	int more;

	/* IPv4 without options, at least as long as TCP needs. */
	if (g.data + ETHER + 40 > end || (*(__u32 *)(g.data + 12) & 0x00ffffff) != 0x450008)
		return CONTINUE;
	if ((*(__u64 *)g.data ^ own_mac) << 16)
		return PASS(VERDICT_NOT_OUR_MAC);
	g.ip = ip;
	g.s = get_settings();
	g.hash = flow_hash(g.s, ip->saddr, *(__be16 *)(g.data + ETHER + 20), ip->daddr,
			   *(__be16 *)(g.data + ETHER + 22));
	g.first = first_flow_set(g.hash);
	if (!g.first)
		return CONTINUE;
	g.vip = find_vip_in(g.s, ip->daddr, 0, &more);
	if (!g.vip)
		return more || !is_complete(&g, sizeof(*ip)) ? CONTINUE : pass_foreign(g.s);
	if ((g.vip->flags && (g.vip->flags != VIP_LEASED || !lease_is_alive(g.vip))) ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE))
		return CONTINUE;
	if (ip->protocol == IPPROTO_TCP) {
		flags = *(__u8 *)(g.data + ETHER + 33) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
		number = &g.vip->tcp;
	} else if (ip->protocol == IPPROTO_UDP) {
		number = &g.vip->udp;
	} else {
		return CONTINUE;
	}
	barrier_var(flags);
	g.key = flow_key(ip->saddr, *(__be16 *)(g.data + ETHER + 20), *number);
	if (flags != TCP_ACK)
		goto no_flow;
	place = (void *)g.first + set_offset_of(g.first, g.key);
	value = READ_ONCE_64(place[WAYS]);
	if (READ_ONCE_64(place[0]) != g.key) { /* one flow in forty is in its second set */
		second = second_flow_set(g.hash);
		if (!second)
			return CONTINUE;
		place = (void *)second + set_offset_of(second, g.key);
		value = READ_ONCE_64(place[WAYS]);
		if (READ_ONCE_64(place[0]) != g.key)
			goto no_flow;
	}
	if ((value ^ (FAST_KIND | (__u64) * (__be16 *)(g.data + ETHER + 22) << PORT_SHIFT)) & FAST_MASK ||
	    (READ_ONCE_64(place[WAYS]) ^ value) & IDENTITY)
		return CONTINUE;
	return send_on(&g, place, value);

no_flow:
	return pass_unserved(&g);
}
