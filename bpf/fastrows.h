/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way of a stateless service's packets whose row is settled. It is
 * asked where the long way begins, so that packets of other services do not pay
 * for it, and decides nothing that the long way would decide otherwise; whatever
 * is unusual gets CONTINUE. No flow is looked up: all that it reads is near.
 */
#pragma once

#include "connection.h"
#include "glance.h"

#ifdef LVX_IPV6
/* IPv6 without extension headers. */
static __always_inline int is_plain(void *data)
{
	return (*(__u32 *)(data + 12) & 0x00f0ffff) == 0x0060dd86;
}

static __always_inline __u8 protocol_of(const struct ip_header *ip)
{
	return ip->nexthdr;
}

static __always_inline ip_t target_of(struct ip_header *ip)
{
	return (ip_t)&ip->daddr;
}
#else
/* IPv4 without options, no fragment. */
static __always_inline int is_plain(void *data)
{
	struct iphdr *ip = data + ETHER;

	return (*(__u32 *)(data + 12) & 0x00ffffff) == 0x450008 &&
	       !(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE));
}

static __always_inline __u8 protocol_of(const struct ip_header *ip)
{
	return ip->protocol;
}

static __always_inline ip_t target_of(struct ip_header *ip)
{
	return ip->daddr;
}
#endif

/* The service of an exact port, if the first line of its search has it. */
static __always_inline struct service *find_near_service(const struct settings *s, __u32 wanted)
{
	struct port_line *line = port_line_at(s->half, wanted, 0);
	__u64 offset = 0;
	struct port *way;

	if (!line)
		return 0;
#pragma unroll
	for (int w = 1; w < 8; w++) /* without a branch: one path for the verifier */
		offset += if_zero(*(__u32 *)&line->way[w] ^ wanted, w * sizeof(*way));
	way = (void *)line + (offset & 56);
	return *(__u32 *)way == wanted ? get_service(s, way->service) : 0;
}

/* The slot of the real that has the packet's row, if that is settled; else NO_SLOT. */
static __always_inline __u32 settled_slot(struct glance *g, __u16 number)
{
	__be16 *port = g->data + ETHER + IP_HEADER;
	struct service *svc = find_near_service(g->s, port_word(number, port[1]));
	__u32 value = fold_address(source_of(g->ip));
	__u64 row;

	if (!svc || !svc->rows || svc->flags & SERVICE_FILTERED)
		return NO_SLOT;
	if (svc->flags & SERVICE_PORT)
		value += bpf_ntohs(port[0]);
	row = row_of(svc, value);
	return row_state(row) == ROW_SETTLED ? row_real(row) : NO_SLOT;
}

/* Send the packet to the real in a slot, if there is nothing to mind. */
static __always_inline int send_to_slot(struct glance *g, __u32 slot, __u8 protocol, __u8 flags)
{
	struct real *real = bpf_map_lookup_elem(&reals, &slot);
	__u32 length = length_of(g->ip);
	__u64 mind = (REAL_THERE | REAL_LOCAL | REAL_FILTERED) << 8 | 0xf0;

	if (!real || (*(__u64 *)real->mac >> 48 & mind) != REAL_THERE << 8)
		return CONTINUE;
	if (length > real->mtu || ttl_of(g->ip) <= 1 || !is_complete(g, IP_HEADER + 20) ||
	    (may_begin(protocol, flags) && is_own_address(source_of(g->ip))))
		return CONTINUE;
	count_packet(slot, length, !!(flags & TCP_SYN));
	rewrite_macs(g->data, real);
	decrease_ttl(g->ip);
	return transmit(g->ctx, real, VERDICT_FORWARDED);
}

/* A global function: verified alone, and its stack is not the long way's. */
__attribute__((noinline)) int way_by_row(struct xdp_md *ctx)
{
	struct glance g = { .ctx = ctx, .data = (void *)(long)ctx->data };
	void *end = (void *)(long)ctx->data_end;
	__u8 protocol, flags = 0;
	__u16 number;
	int more;

	if (g.data + ETHER + IP_HEADER + 20 > end || !is_plain(g.data) || (*(__u64 *)g.data ^ own_mac) << 16)
		return CONTINUE;
	g.ip = g.data + ETHER;
	g.s = get_settings();
	if (is_martian(source_of(g.ip)))
		return CONTINUE;
	g.vip = find_vip_in(g.s, target_of(g.ip), 0, &more);
	if (!g.vip || !(g.vip->flags & VIP_STATELESS) || g.vip->flags & (VIP_STANDBY | VIP_PEERS) ||
	    (g.vip->flags & VIP_LEASED && !lease_is_alive(g.vip)))
		return CONTINUE;
	protocol = protocol_of(g.ip);
	if (protocol == IPPROTO_TCP) {
		number = g.vip->tcp;
		flags = *(__u8 *)(g.data + ETHER + IP_HEADER + 13);
	} else if (protocol == IPPROTO_UDP) {
		number = g.vip->udp;
	} else {
		return CONTINUE;
	}
	return number ? send_to_slot(&g, settled_slot(&g, number), protocol, flags) : CONTINUE;
}

/* CONTINUE, too, if no service is stateless. */
static __always_inline int way_by_row_if_any(struct xdp_md *ctx)
{
	return get_settings()->flags & SETTING_STATELESS ? way_by_row(ctx) : CONTINUE;
}
