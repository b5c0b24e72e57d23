/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * NAT (net/netfilter/ipvs/ip_vs_xmit.c, ip_vs_nat_xmit, and the dnat_handler
 * and snat_handler of the protocols): addresses and ports are others behind
 * this, and checksums follow them by what has changed (RFC 1624). Whether a
 * checksum was right before is for the receiver to find out.
 */
#pragma once

#include <linux/ip.h>

#include "ipv4.h"
#include "maps.h"
#include "packet.h"

/* What becomes what, in a header and in what a checksum sees of it. */
struct translation {
	__be32 from;
	__be32 to;
	__be16 from_port;
	__be16 to_port;
};

/* A sum of 16-bit words, in one word. */
static __always_inline __u16 fold_64(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* By how much the sum behind a checksum grows. */
static __always_inline __u64 address_change(const struct translation *t)
{
	return (__u64)(__u32)~t->from + t->to;
}

static __always_inline __u64 port_change(const struct translation *t)
{
	return (__u64)(__u16)~t->from_port + t->to_port;
}

static __always_inline __u16 adjust_sum(__u16 check, __u64 change)
{
	return ~fold_64((__u16)~check + change);
}

/* What a packet that the kernel has put together, or not yet finished, has for a checksum: see is_unfinished. */
static __always_inline __u16 pseudo_header_sum(const struct iphdr *ip, __u32 length)
{
	return fold_64((__u64)ip->saddr + ip->daddr + bpf_htons(ip->protocol) + bpf_htons(length));
}

/*
 * Whether the checksum is only begun: the sum of the pseudo-header, to which
 * the hardware, or the kernel on the way out, adds the rest (CHECKSUM_PARTIAL).
 * Generic XDP sees such packets: what GRO has made of several, and what
 * another namespace of this host has sent. Nothing tells them from others but
 * that sum; a finished checksum has it once in 65,536 packets, which is resent
 * with another one.
 */
static __always_inline int is_unfinished(const struct interface *me, const struct iphdr *ip,
					 __u16 check, __u32 length)
{
	return me->mode == MODE_GENERIC && check == pseudo_header_sum(ip, length);
}

/* The checksum of TCP or UDP behind a translation; 0, UDP's "none", stays. */
static __always_inline void translate_check(__u16 *check, __u8 protocol,
					    const struct translation *t, int unfinished)
{
	__u16 sum;

	if (unfinished) {
		*check = fold_64(*check + address_change(t));
		return;
	}
	if (protocol == IPPROTO_UDP && !*check)
		return;
	sum = adjust_sum(*check, address_change(t) + port_change(t));
	*check = protocol == IPPROTO_UDP && !sum ? 0xffff : sum;
}

/*
 * TCP or UDP at l4, of which `most` bytes are there, goes by a port of another
 * number: the destination's, or (is_reply) the source's. IP's header has its
 * old address still.
 */
static __always_inline int translate_transport(const struct interface *me, struct iphdr *ip,
					       void *l4, void *end, __u32 length,
					       const struct translation *t, int is_reply)
{
	__u8 protocol = ip->protocol;
	__u16 *check = l4 + (protocol == IPPROTO_TCP ? 16 : 6);

	if (l4 + 8 > end || (void *)(check + 1) > end)
		return 1;
	translate_check(check, protocol, t, is_unfinished(me, ip, *check, length));
	*(__be16 *)(is_reply ? l4 : l4 + 2) = t->to_port;
	return 0;
}

/* The header's source (is_reply) or destination is another, and its checksum follows. */
static __always_inline void translate_address(struct iphdr *ip, const struct translation *t,
					      int is_reply)
{
	ip->check = adjust_sum(ip->check, address_change(t));
	if (is_reply)
		ip->saddr = t->to;
	else
		ip->daddr = t->to;
}

/*
 * What an ICMP error quotes went the other way: what is the destination of the
 * error is its source. Its own transport checksum stays, as with the kernel: of
 * TCP it is not quoted. The quoted header's checksum balances the address, so
 * that the message's moves by the port alone.
 */
static __always_inline int translate_quoted(void *icmp_at, void *end, const struct translation *t,
					    int is_reply)
{
	struct icmp *icmp = icmp_at;
	struct iphdr *ip = (void *)(icmp + 1);
	__be16 *port;

	if ((void *)(ip + 1) > end)
		return 1;
	port = (void *)ip + ip->ihl * 4 + (is_reply ? 2 : 0);
	if ((void *)(port + 1) > end)
		return 1;
	icmp->checksum = adjust_sum(icmp->checksum, port_change(t));
	translate_address(ip, t, !is_reply);
	*port = t->to_port;
	return 0;
}
