/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a frame to a struct packet. Lengths come from the headers, never from
 * the end of the frame: Ethernet pads.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/types.h>

#include "types.h"

/* Not a verdict: go on. */
#define CONTINUE (-1)

#define ETHER 14
#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_MORE 0x2000
#define FRAGMENT_DONT 0x4000

enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

/* What the path needs to know of a packet. */
struct packet {
	__be32 source;
	__be32 destination;
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

enum icmp_number {
	ICMP_UNREACHABLE = 3,
	ICMP_PORT = 3, /* code: port unreachable */
	ICMP_FRAG_NEEDED = 4, /* code */
	ICMP_SOURCE_QUENCH = 4,
	ICMP_TIME_EXCEEDED = 11,
};

/* An ARP packet for IPv4 over Ethernet, from its operation on (RFC 826). */
struct arp {
	__u8 types[6];
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

#define ARP_REQUEST 1

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

/* The frame is for this interface's own address. Nothing else is touched. */
static __always_inline int for_us(void *data, const struct interface *me)
{
	/* 8 bytes are there: the caller has checked for a whole header. */
	return ((*(__u64 *)data ^ *(__u64 *)me->mac) << 16) == 0;
}

/*
 * Ethernet with up to two tags (802.1Q, 802.1ad). Returns the offset of the
 * IPv4 header, or 0 if this is something else.
 */
static __always_inline __u32 parse_ethernet(void *data, void *end)
{
	__be16 type = *(__be16 *)(data + 12);
	__u32 at = ETHER;

	if (type == bpf_htons(ETH_P_IP))
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
		if (type == bpf_htons(ETH_P_IP))
			return at;
	}
	return 0;
}

/*
 * Sources that name no host: 0/8, 127/8, multicast, broadcast. No stack takes
 * packets from them (ip_route_input_slow), and nobody must answer them.
 */
static __always_inline int martian(__be32 source)
{
	__u8 first = bpf_ntohl(source) >> 24;

	return first == 0 || first == 127 || (first & 0xf0) == 0xe0 || source == ~0u;
}

/*
 * The IPv4 header at p->ip. Fills everything but the ports.
 */
static __always_inline int parse_ipv4(void *data, void *end, struct packet *p)
{
	struct iphdr *ip = data + p->ip;
	__u32 header;

	if ((void *)(ip + 1) > end)
		return VERDICT_MALFORMED;
	header = ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || p->length < header)
		return VERDICT_MALFORMED;
	p->l4 = p->ip + header;
	p->source = ip->saddr;
	p->destination = ip->daddr;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->dont_fragment = !!(ip->frag_off & bpf_htons(FRAGMENT_DONT));
	p->fragment = ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE);
	p->id = ip->id;
	return CONTINUE;
}

/*
 * Ports and TCP flags. TCP needs its whole 20 bytes, as the kernel's
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
