/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tunnels: the packet as it is becomes what another IP packet carries to the
 * real (net/netfilter/ipvs/ip_vs_xmit.c, ip_vs_tunnel_xmit and its sibling of
 * IPv6), either family inside either; by itself, or behind the headers of UDP and
 * GUE or that of GRE. The outer header has TTL, TOS and, of IPv4 in IPv4, DF of the
 * inner one, whose TTL is one less by then. What does not change from packet to
 * packet, user space has worked out (struct tunnel).
 *
 * XDP cannot fragment the outer packet: what is too long for the way is
 * answered or dropped before (struct real: its mtu is less by the overhead).
 */
#pragma once

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "answer.h"
#include "family.h"
#include "forward_dr.h"
#include "maps.h"
#include "packet.h"

#define OUTER_DONT_FRAGMENT 0x4000
#define PROTOCOL_GRE 47
#define LONGEST_OFFSET 2048 /* of ports in a frame */

#ifdef LVX_IPV6
#define INNER_PROTOCOL IPPROTO_IPV6
#define INNER_TYPE ETH_P_IPV6
#else
#define INNER_PROTOCOL IPPROTO_IPIP
#define INNER_TYPE ETH_P_IP
#endif

/* UDP's header, and GUE's without options (net/gue.h). */
struct gue {
	__be16 source;
	__be16 port;
	__be16 length;
	__u16 check; /* none */
	__u8 control; /* version 0, no options */
	__u8 protocol;
	__be16 flags;
};

struct gre {
	__be16 flags;
	__be16 type;
};

/* What the outer headers take from the packet. */
struct inner {
	__u32 length;
	__be32 host; /* what the flow decides of the source */
	__be16 dont_fragment;
	__u8 tos;
	__u8 ttl;
};

#ifdef LVX_IPV6
static __always_inline void look_inside(const struct ip_header *ip, struct inner *in)
{
	in->tos = bpf_ntohs(*(__be16 *)ip) >> 4;
	in->dont_fragment = 0;
}
#else
static __always_inline void look_inside(const struct ip_header *ip, struct inner *in)
{
	in->tos = ip->tos;
	in->dont_fragment = ip->frag_off & bpf_htons(OUTER_DONT_FRAGMENT);
}
#endif

/* The same for all packets of a flow, for those of different flows hardly. */
static __always_inline __u32 spread_of(__u32 client, __u32 ports)
{
	__u32 hash = (client ^ ports * 0x9e3779b1u) * 0x85ebca6bu;

	return hash ^ hash >> 15;
}

/*
 * The address within a prefix that a flow's outer headers come from, by the bits
 * behind it. Neither the first nor the last, which on a segment name no host.
 */
static __always_inline __be32 host_of(__u32 spread, __be32 bits)
{
	__be32 host = spread & bits; /* of the last bytes, the best mixed ones */

	if (!host || host == bits)
		host ^= bits & bpf_htonl(1);
	return host;
}

static __always_inline void fill_outer(struct iphdr *outer, const struct tunnel *t,
				       const struct inner *in, __u8 protocol, __u32 length)
{
	/* ip_select_ident: what nobody may fragment needs no identification. */
	__u16 id = in->dont_fragment ? 0 : bpf_get_prandom_u32();
	__be16 size = bpf_htons(length);

	*(__u16 *)outer = bpf_htons(0x4500 | in->tos);
	outer->tot_len = size;
	outer->id = id;
	outer->frag_off = in->dont_fragment;
	outer->ttl = in->ttl;
	outer->protocol = protocol;
	/* t->sum is that of an IPIP header. */
	outer->check = fold_sum(t->sum + bpf_htons(in->tos) + size + id + in->dont_fragment +
				bpf_htons(in->ttl << 8 | (protocol - IPPROTO_IPIP)) +
				(in->host & 0xffff) + (in->host >> 16));
	outer->saddr = t->source.word[3] | in->host;
	outer->daddr = t->destination.word[3];
}

static __always_inline void fill_outer6(struct ipv6hdr *outer, const struct tunnel *t,
					const struct inner *in, __u8 protocol, __u32 length)
{
	struct address *source = (void *)&outer->saddr, *destination = (void *)&outer->daddr;

	*(__be32 *)outer = bpf_htonl(0x60000000 | in->tos << 20);
	outer->payload_len = bpf_htons(length - sizeof(*outer));
	outer->nexthdr = protocol;
	outer->hop_limit = in->ttl;
	*source = t->source;
	source->word[3] |= in->host;
	*destination = t->destination;
}

static __always_inline void fill_gue(struct gue *g, const struct tunnel *t, __u32 length, __u32 spread)
{
	g->source = bpf_htons(SPREAD_PORTS | spread >> 18);
	g->port = t->port;
	g->length = bpf_htons(length + sizeof(*g));
	g->check = 0;
	g->control = 0;
	g->protocol = INNER_PROTOCOL;
	g->flags = 0;
}

/*
 * Make the frame one that carries its packet, whose header is at ip and whose
 * TTL is already one less, to the real. Its ports are at l4; 0: it has none. 0 if
 * there was room. The pointers into the frame are void behind it. A global
 * function: it is verified once, and the short way has registers of its own.
 */
__attribute__((noinline)) int encapsulate(struct xdp_md *ctx, const struct real *real,
					  const struct tunnel *t, __u32 ip, __u32 l4)
{
	__u32 method, base = sizeof(struct iphdr), room, both = 0, spread = 0;
	__u8 protocol = INNER_PROTOCOL;
	void *data, *end, *old, *type, *outer, *ports;
	struct inner in;

	if (!real || !t)
		return 1;
	method = real_method(real);
	if (t->is_ipv6)
		base = sizeof(struct ipv6hdr);
	room = base;
	if (method == FORWARD_GUE) {
		protocol = IPPROTO_UDP;
		room += sizeof(struct gue);
	} else if (method == FORWARD_GRE) {
		protocol = PROTOCOL_GRE;
		room += sizeof(struct gre);
	}
	if (bpf_xdp_adjust_head(ctx, -(int)room))
		return 1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	old = data + room;
	type = data + ((ip - 2) & 28); /* what Ethernet says of its contents */
	outer = type + 2;
	if (old + ETHER + 8 > end || outer + room + IP_HEADER > end)
		return 1;
	*(__u16 *)(data + 12) = *(__u16 *)(old + 12);
	if (ip > ETHER) { /* tags */
		*(__u32 *)(data + 14) = *(__u32 *)(old + 14);
		*(__u32 *)(data + 18) = *(__u32 *)(old + 18);
	}
	in.length = length_of(outer + room);
	in.ttl = ttl_of(outer + room);
	look_inside(outer + room, &in);
	if (method == FORWARD_GUE || t->spread) {
		ports = old + (l4 & (LONGEST_OFFSET - 1));
		if (l4 && ports + 4 <= end)
			both = *(__u32 *)ports;
		spread = spread_of(fold_address(source_of(outer + room)), both);
	}
	in.host = host_of(spread, t->spread);
	if (base == sizeof(struct ipv6hdr))
		fill_outer6(outer, t, &in, protocol, in.length + room);
	else
		fill_outer(outer, t, &in, protocol, in.length + room);
	if (t->is_ipv6 != (INNER_TYPE == ETH_P_IPV6))
		*(__be16 *)type = bpf_htons(t->is_ipv6 ? ETH_P_IPV6 : ETH_P_IP);
	if (method == FORWARD_GUE) {
		fill_gue(outer + base, t, in.length, spread);
	} else if (method == FORWARD_GRE) {
		struct gre *gre = outer + base;

		gre->flags = 0;
		gre->type = bpf_htons(INNER_TYPE);
	}
	rewrite_macs(data, real);
	return 0;
}
