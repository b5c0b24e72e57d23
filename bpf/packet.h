/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a frame to a struct packet, as far as both families have it in common:
 * Ethernet in front of the IP header, TCP and UDP behind it. Lengths come from
 * the headers, never from the end of the frame: Ethernet pads.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/types.h>

#include "tcp.h"
#include "types.h"

/* A verdict and what XDP does with it, in one number. */
#define OUTCOME(verdict, action) ((verdict) | (action) << 8)
#define PASS(verdict) OUTCOME(verdict, XDP_PASS)
#define DROP(verdict) OUTCOME(verdict, XDP_DROP)

/* Not an outcome: go on. */
#define CONTINUE (-1)
#define MAYBE_REPLY (-4) /* for no VIP, and there are reals by NAT, whose reply it may be */

#define ETHER 14

/*
 * An address of the family that is compiled for. One of IPv6 lies in memory of
 * this CPU's (ipv6.h): the stack has no room for addresses.
 */
#ifdef LVX_IPV6
typedef struct address *ip_t;
#else
typedef __be32 ip_t;
#endif

/* What the path needs to know of a packet. */
struct packet {
	ip_t source;
	ip_t destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 ip; /* offset of the IP header: 14, 18 or 22 */
	__u32 l4; /* offset of what follows it */
	__u32 length; /* of the IP packet, from its header */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 ttl;
	__u8 dont_fragment;
	__be16 fragment; /* FRAGMENT_MORE and FRAGMENT_OFFSET of the header, else 0 */
	__be16 id;
};

/* linux/icmp.h drags libc's headers in; this is all we need of it. */
struct icmp {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 unused;
	__be16 mtu; /* of ICMP_FRAG_NEEDED */
};

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

/* The frame is for this interface's own address. Nothing else is touched. */
static __always_inline int is_for_us(void *data, const struct interface *me)
{
	/* 8 bytes are there: the caller has checked for a whole header. */
	return ((*(__u64 *)data ^ *(__u64 *)me->mac) << 16) == 0;
}

/*
 * Ethernet with up to two tags (802.1Q, 802.1ad). Returns the offset of the
 * header of the family whose EtherType is wanted, or 0 if there is none.
 */
static __always_inline __u32 parse_ethernet(void *data, void *end, __be16 wanted)
{
	__be16 type = *(__be16 *)(data + 12);
	__u32 at = ETHER;

	if (type == wanted)
		return at;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct vlan_tag *tag = data + at;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			return 0;
		if ((void *)(tag + 1) > end)
			return 0;
		type = tag->type;
		at += sizeof(*tag);
		if (type == wanted)
			return at;
	}
	return 0;
}

/*
 * Ports and TCP flags. TCP needs all its 20 bytes, as the kernel's
 * ip_vs_proto_tcp.c does; UDP its 8.
 */
static __always_inline int parse_ports(void *data, void *end, struct packet *p)
{
	void *l4 = data + p->l4;
	__u32 need = p->protocol == IPPROTO_TCP ? 20 : 8;

	if (p->length < p->l4 - p->ip + need || l4 + 8 > end)
		return VERDICT_MALFORMED;
	p->source_port = *(__be16 *)l4;
	p->destination_port = *(__be16 *)(l4 + 2);
	if (p->protocol == IPPROTO_TCP) {
		if (l4 + 20 > end)
			return VERDICT_MALFORMED;
		p->tcp_flags = *(__u8 *)(l4 + 13);
	}
	return CONTINUE;
}
