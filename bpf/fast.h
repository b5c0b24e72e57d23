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

#include "admit.h"
#include "flow.h"
#include "forward_dr.h"
#include "ipv4.h"
#include "listen.h"
#include "tunnel.h"

/*
 * What a proven flow's value has besides real, generation and nonce: PROVEN,
 * and ESTABLISHED or UDP, which differ in one bit. Which of them need not be
 * asked: the VIP's number in the key is the protocol's own.
 */
#define FAST_KIND ((__u64)(8 | STATE_ESTABLISHED) << STATE_SHIFT)
#define FAST_UDP ((__u64)(STATE_ESTABLISHED ^ STATE_UDP) << STATE_SHIFT)
#define FAST_MASK ((PROVEN | STATE_MASK | PORT_MASK) & ~FAST_UDP)

/* What the short way has read of a packet. */
struct glance {
	struct xdp_md *ctx;
	void *data;
	struct iphdr *ip;
	struct settings *s;
	struct vip *vip;
	struct set *first; /* the first set of the flow */
	__u64 key;
	__u64 hash;
};

/* The packet is all there, and so long at least: what the long way asks first. */
static __always_inline int is_complete(const struct glance *g, __u32 least)
{
	__u32 length = bpf_ntohs(g->ip->tot_len);

	return length >= least && length <= (__u32)(g->ctx->data_end - g->ctx->data) - ETHER;
}

/* A real that may get this packet of a live flow by this method, with nothing else to mind. */
static __always_inline int is_sendable(__u64 way, __u64 value, enum forward_method method)
{
	__u64 mind = (REAL_THERE | REAL_LOCAL | REAL_FILTERED) << 8 | 255;

	/* UDP is scheduled anew at a silent real: bit 62 of the value is UDP's, REAL_SILENT bit 14 of the way's end. */
	mind |= value >> 48 & REAL_SILENT << 8;
	return (way >> 48 & mind) == (REAL_THERE << 8 | method << 4 | value_generation(value));
}

/* A packet of the proven flow goes through the tunnel to its real: as send_on, behind its first question. */
static __always_inline int send_on_through(const struct glance *g, __u64 *place, __u64 value,
					   struct real *real, __u32 at)
{
	__u32 length = bpf_ntohs(g->ip->tot_len);
	struct tunnel *t = bpf_map_lookup_elem(&tunnels, &at);
	__u64 now;

	if (!t || length > real->mtu || g->ip->ttl <= 1 || !is_complete(g, 40))
		return CONTINUE;
	now = clock_now(g->s);
	if (flow_age(value, now)) {
		if (flow_is_expired(g->s, value, now))
			return CONTINUE;
		store_16(&place[WAYS], now);
	}
	count_packet(at, length, 0);
	decrease_ttl(g->ip);
	if (encapsulate(g->ctx, real, t, ETHER))
		return DROP(VERDICT_NO_HEADROOM);
	return transmit(g->ctx, real, VERDICT_FORWARDED);
}

/* Send a packet of the proven flow at this place. */
static __always_inline int send_on(const struct glance *g, __u64 *place, __u64 value)
{
	__u32 at = value_real(value);
	struct real *real = bpf_map_lookup_elem(&reals, &at);
	struct counter *c;
	__u32 length;
	__u64 way, now;

	if (!real)
		return CONTINUE;
	way = *(__u64 *)real->mac; /* with generation and flags */
	length = bpf_ntohs(g->ip->tot_len);
	if (!is_sendable(way, value, FORWARD_DR))
		return is_sendable(way, value, FORWARD_IPIP) ?
			       send_on_through(g, place, value, real, at) :
			       CONTINUE;
	if (length > real->mtu || g->ip->ttl <= 1)
		return CONTINUE;
	if (!is_complete(g, 40))
		return CONTINUE; /* cut short, or in several buffers */
	now = clock_now(g->s);
	if (flow_age(value, now)) {
		if (flow_is_expired(g->s, value, now))
			return CONTINUE;
		store_16(&place[WAYS], now);
	}
	c = bpf_map_lookup_elem(&counters, &at);
	if (c) {
		add_own_64(&c->packets, 1);
		add_own_64(&c->bytes, length);
	}
	rewrite_macs(g->data, real);
	decrease_ttl(g->ip);
	return transmit(g->ctx, real, VERDICT_FORWARDED);
}

/*
 * A packet without a flow, or one that is not data. Ports where no service
 * listens get many of them on the Internet; everything else goes the long way.
 */
static __always_inline int pass_unserved(const struct glance *g)
{
	__u32 wanted = port_word(g->key >> 48, *(__be16 *)(g->data + ETHER + 22));
	struct set *second;

	if (!is_complete(g, 40) || is_martian(g->ip->saddr))
		return CONTINUE;
	if (g->vip->tcp_ranges | g->vip->udp_ranges || !port_is_unused(g->s->half, wanted))
		return CONTINUE;
	second = flow_set(second_set(g->hash, flow_sets));
	if (!second || set_has_key(g->first, g->key) || set_has_key(second, g->key))
		return CONTINUE;
	return PASS(VERDICT_NO_LISTENER);
}

static __always_inline int short_way(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct glance g = { .ctx = ctx, .data = (void *)(long)ctx->data };
	struct iphdr *ip = g.data + ETHER;
	__u32 zero = 0, flags = TCP_ACK;
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
	g.s = bpf_map_lookup_elem(&settings, &zero);
	if (!g.s)
		return CONTINUE;
	g.hash = flow_hash(g.s, ip->saddr, *(__be16 *)(g.data + ETHER + 20), ip->daddr,
			   *(__be16 *)(g.data + ETHER + 22));
	g.first = flow_set(first_set(g.hash, flow_sets));
	if (!g.first)
		return CONTINUE;
	g.vip = find_vip_in(g.s, ip->daddr, 0, &more);
	if (!g.vip)
		return more || !is_complete(&g, sizeof(*ip)) ? CONTINUE : PASS(VERDICT_NOT_OURS);
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
	place = set_way_of(g.first, g.key);
	value = READ_ONCE_64(place[WAYS]);
	if (READ_ONCE_64(place[0]) != g.key) { /* one flow in forty is in its second set */
		second = flow_set(second_set(g.hash, flow_sets));
		if (!second)
			return CONTINUE;
		place = set_way_of(second, g.key);
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
