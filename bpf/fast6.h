/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way of IPv6, as fast.h is IPv4's. It finds a flow by its key alone,
 * which has the client's name in place of the address: flows whose keys are
 * equal are never proven while both live (flow.h), so that data of a connection
 * never takes another's flow. What a packet without a connection may do: an ACK
 * that opens none (TCP without sloppy_tcp) goes by a twin's flow to a real that
 * resets it, where the director would have. Where any packet opens a connection,
 * of UDP and with sloppy_tcp, that would be a connection that was never
 * scheduled: there the address is compared, at the price of the set's next line.
 */
#pragma once

#include "glance.h"

/* The place that has the key of the packet, and the value that was read there. */
struct found {
	struct set *set;
	__u64 offset; /* of its key in the set */
	__u64 value;
};

static __always_inline int find_in(const struct glance *g, struct set *set, struct found *f)
{
	__u64 *place;

	f->set = set;
	f->offset = set_offset_of(set, g->key);
	place = (void *)set + f->offset;
	f->value = READ_ONCE_64(place[WAYS]);
	return READ_ONCE_64(place[0]) == g->key;
}

/* Reports whether the place that was found is the packet's client's, not a twin's. */
static __always_inline int is_clients(const struct glance *g, const struct found *f)
{
	struct address *owner = (void *)f->set->owner + 2 * f->offset;

	return is_same_address(owner, source_of(g->ip));
}

/* A packet of the flow that was found, or of one like it. */
static __always_inline int send_found(const struct glance *g, const struct found *f)
{
	__u64 port = *(__be16 *)(g->data + ETHER + IP_HEADER + 2);
	__u64 *place = (void *)f->set + f->offset;

	if ((f->value ^ (FAST_KIND | port << PORT_SHIFT)) & FAST_MASK)
		return CONTINUE;
	if ((g->ip->nexthdr == IPPROTO_UDP || g->s->flags & SETTING_SLOPPY_TCP) && !is_clients(g, f))
		return CONTINUE;
	if ((READ_ONCE_64(place[WAYS]) ^ f->value) & IDENTITY)
		return CONTINUE;
	return send_on(g, place, f->value);
}

static __always_inline int is_served(const struct vip *vip)
{
	return !vip->flags || (vip->flags == VIP_LEASED && lease_is_alive(vip));
}

/* A function of its own: Linux 6.1 counts its stack below the long way's if it is inlined. */
static __attribute__((noinline)) int short_way(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct glance g = { .ctx = ctx, .data = (void *)(long)ctx->data };
	__u32 flags = TCP_ACK;
	struct found f;
	struct set *second;
	__u16 number;
	int more;

	/* Without extension headers, at least as long as TCP needs. */
	if (g.data + ETHER + IP_HEADER + 20 > end || (*(__u32 *)(g.data + 12) & 0x00f0ffff) != 0x0060dd86 ||
	    (*(__u64 *)g.data ^ own_mac) << 16)
		return CONTINUE;
	g.ip = g.data + ETHER;
	if (is_martian(source_of(g.ip)))
		return CONTINUE; /* its name may be a client's */
	if (g.ip->nexthdr == IPPROTO_TCP)
		flags = *(__u8 *)(g.data + ETHER + IP_HEADER + 13) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
	else if (g.ip->nexthdr != IPPROTO_UDP)
		return CONTINUE;
	g.s = get_settings();
	g.vip = find_vip_in(g.s, (ip_t)&g.ip->daddr, 0, &more);
	if (!g.vip)
		return more || !is_complete(&g, IP_HEADER) ? CONTINUE : PASS(VERDICT_NOT_OURS);
	number = g.ip->nexthdr == IPPROTO_TCP ? g.vip->tcp : g.vip->udp;
	if (!is_served(g.vip))
		return CONTINUE;
	g.key = flow_key(name_of(g.s, source_of(g.ip)), *(__be16 *)(g.data + ETHER + IP_HEADER), number);
	g.hash = flow_hash(g.s, g.key, *(__be16 *)(g.data + ETHER + IP_HEADER + 2));
	g.first = first_flow_set(g.hash);
	if (!g.first)
		return CONTINUE;
	if (flags != TCP_ACK)
		return pass_unserved(&g);
	if (find_in(&g, g.first, &f))
		return send_found(&g, &f);
	second = second_flow_set(g.hash);
	if (!second)
		return CONTINUE;
	if (find_in(&g, second, &f))
		return send_found(&g, &f);
	return pass_unserved(&g);
}
