/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What both families' short ways have in common (fast.h, fast6.h): which flows
 * they take, how a packet of one is sent, and what is passed because no service
 * listens.
 */
#pragma once

#include "admit.h"
#include "family.h"
#include "flow.h"
#include "forward_dr.h"
#include "listen.h"
#include "tunnel.h"
#ifndef LVX_IPV6
#include "nat.h"
#endif

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
	struct ip_header *ip;
	struct settings *s;
	struct vip *vip;
	struct set *first; /* the first set of the flow */
	__u64 key;
	__u64 hash;
};

/* The packet is all there, and so long at least: what the long way asks first. */
static __always_inline int is_complete(const struct glance *g, __u32 least)
{
	__u32 length = length_of(g->ip);

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
	__u32 length = length_of(g->ip);
	struct tunnel *t = bpf_map_lookup_elem(&tunnels, &at);
	__u64 now;

	if (!t || length > real->mtu || ttl_of(g->ip) <= 1 || !is_complete(g, IP_HEADER + 20))
		return CONTINUE;
	now = clock_now(g->s);
	if (flow_age(value, now)) {
		if (flow_is_expired(g->s, value, now))
			return CONTINUE;
		store_16(&place[WAYS], now);
	}
	count_packet(at, length, 0);
	decrease_ttl(g->ip);
	if (encapsulate(g->ctx, real, t, ETHER, ETHER + IP_HEADER))
		return DROP(VERDICT_NO_HEADROOM);
	return transmit(g->ctx, real, VERDICT_FORWARDED);
}

#ifndef LVX_IPV6
/* A packet of the proven flow goes to its real by NAT: the same. */
static __always_inline int send_on_translated(const struct glance *g, __u64 *place, __u64 value,
					      struct real *real, __u32 at)
{
	void *end = (void *)(long)g->ctx->data_end, *l4 = g->data + ETHER + IP_HEADER;
	__u32 slot = interface_slot, length = length_of(g->ip);
	struct interface *me = bpf_map_lookup_elem(&interfaces, &slot);
	struct address *to = bpf_map_lookup_elem(&addresses, &at);
	struct translation t = { .from = g->ip->daddr };
	__u64 now;

	if (!me || !to || length > real->mtu || g->ip->ttl <= 1 || !is_complete(g, IP_HEADER + 20))
		return CONTINUE;
	now = clock_now(g->s);
	if (flow_age(value, now)) {
		if (flow_is_expired(g->s, value, now))
			return CONTINUE;
		store_16(&place[WAYS], now);
	}
	t.to = to->word[3];
	t.from_port = *(__be16 *)(l4 + 2);
	t.to_port = real->port ?: t.from_port;
	if (translate_transport(me, g->ip, l4, end, length - IP_HEADER, &t, 0))
		return CONTINUE;
	count_packet(at, length, 0);
	decrease_ttl(g->ip);
	translate_address(g->ip, &t, 0);
	rewrite_macs(g->data, real);
	return transmit(g->ctx, real, VERDICT_FORWARDED);
}
#endif

/* The same for another method than direct routing, of those that the short way takes. */
static __always_inline int send_on_otherwise(const struct glance *g, __u64 *place, __u64 value,
					     struct real *real, __u32 at)
{
	__u64 way = *(__u64 *)real->mac;

#ifndef LVX_IPV6
	if (is_sendable(way, value, FORWARD_NAT))
		return send_on_translated(g, place, value, real, at);
#endif
	if (is_sendable(way, value, way >> 52 & 7)) /* by a tunnel: by direct routing it is not */
		return send_on_through(g, place, value, real, at);
	return CONTINUE;
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
	length = length_of(g->ip);
	if (!is_sendable(way, value, FORWARD_DR))
		return send_on_otherwise(g, place, value, real, at);
	if (length > real->mtu || ttl_of(g->ip) <= 1)
		return CONTINUE;
	if (!is_complete(g, IP_HEADER + 20))
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
	__u32 wanted = port_word(g->key >> 48, *(__be16 *)(g->data + ETHER + IP_HEADER + 2));
	struct set *second;

	if (!is_complete(g, IP_HEADER + 20) || is_martian(source_of(g->ip)))
		return CONTINUE;
	if (g->vip->tcp_ranges | g->vip->udp_ranges || !port_is_unused(g->s->half, wanted))
		return CONTINUE;
	second = second_flow_set(g->hash);
	if (!second || set_has_key(g->first, g->key) || set_has_key(second, g->key))
		return CONTINUE;
	return PASS(VERDICT_NO_LISTENER);
}
