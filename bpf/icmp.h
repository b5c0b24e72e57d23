/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors that quote a packet of a real to a client: they belong to the
 * real that sent it, or its path-MTU discovery goes blind (ip_vs_in_icmp).
 * The quoted packet went from the VIP to the client, so its tuple is the
 * flow's reversed; only eight bytes behind its IP header are sure to be there.
 */
#pragma once

#include "flow.h"
#include "forward.h"

/* The types that IPVS forwards; the rest is the director's own. */
static __always_inline int is_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH ||
	       type == ICMP_TIME_EXCEEDED;
}

/* Fill p with the tuple of the flow that the error at p->l4 quotes. */
static __always_inline int parse_quoted(void *data, void *end, struct packet *p)
{
	struct icmp *icmp = data + p->l4;
	struct iphdr *ip = (void *)(icmp + 1);
	__u32 header;
	__be16 *ports;

	if (p->length < p->l4 - p->ip + sizeof(*icmp) || (void *)(icmp + 1) > end)
		return PASS(VERDICT_MALFORMED);
	if (!is_error(icmp->type))
		return PASS(VERDICT_OTHER_PROTOCOL);
	if ((void *)(ip + 1) > end)
		return PASS(VERDICT_ICMP_NO_FLOW);
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || ip->saddr != p->destination ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		return PASS(VERDICT_ICMP_NO_FLOW);
	if (p->length < p->l4 - p->ip + sizeof(*icmp) + header + 8)
		return PASS(VERDICT_ICMP_NO_FLOW);
	ports = (void *)ip + header;
	if ((void *)ports + 8 > end)
		return PASS(VERDICT_ICMP_NO_FLOW);
	p->protocol = ip->protocol;
	p->source = ip->daddr;
	p->destination_port = ports[0];
	p->source_port = ports[1];
	return CONTINUE;
}
