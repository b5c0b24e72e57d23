/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From an address and a port to a service. Established flows need only the
 * VIP, one line; the port is looked up for new ones. An exact port wins over
 * a range; every port is a range, which user space has cut to what the others
 * leave.
 */
#pragma once

#include "maps.h"
#include "parse.h"

#define NO_SERVICE 0xffffffffu

static __always_inline int same_address(const struct vip *v, __be32 addr)
{
	const __u64 *word = (const __u64 *)v->addr.word;

	return word[0] == 0 && word[1] == ((__u64)addr << 32 | bpf_htonl(0xffff));
}

static __always_inline struct vip *find_vip(const struct settings *s, __be32 addr)
{
	__u32 hash = addr * 0x9e3779b1u >> 18;
	__u32 half = (s->half & 1) * VIP_LINES;

#pragma unroll
	for (int i = 0; i < PROBES; i++) {
		__u32 at = half + ((hash + i) & (VIP_LINES - 1));
		struct vip_line *line = bpf_map_lookup_elem(&vips, &at);

		if (!line)
			return 0;
		if (same_address(&line->way[0], addr))
			return &line->way[0];
		if (same_address(&line->way[1], addr))
			return &line->way[1];
		if (!(line->way[1].tcp | line->way[1].udp))
			return 0; /* the line is not full: there is no next one */
	}
	return 0;
}

static __always_inline __u32 find_port(__u32 half, __u16 vip, __be16 port)
{
	__u32 hash = (vip | (__u32)port << 16) * 0x9e3779b1u >> 16;

#pragma unroll
	for (int i = 0; i < PROBES; i++) {
		__u32 at = half * PORT_LINES + ((hash + i) & (PORT_LINES - 1));
		struct port_line *line = bpf_map_lookup_elem(&ports, &at);

		if (!line)
			return NO_SERVICE;
#pragma unroll
		for (int w = 0; w < 8; w++) {
			if (line->way[w].vip == vip && line->way[w].port == port)
				return line->way[w].service;
		}
		if (!line->way[7].vip)
			return NO_SERVICE;
	}
	return NO_SERVICE;
}

/* Binary search: at most 2^16 ranges. */
static __always_inline __u32 find_range(__u32 half, __u32 first, __u32 count, __u16 port)
{
	__u32 low = 0, high = count;

	for (int i = 0; i < 17; i++) {
		__u32 middle = (low + high) / 2;
		__u32 at = half * RANGES + ((first + middle) & (RANGES - 1));
		struct range *r;

		if (low >= high)
			break;
		r = bpf_map_lookup_elem(&ranges, &at);
		if (!r)
			break;
		if (port < r->first)
			high = middle;
		else if (port > r->last)
			low = middle + 1;
		else
			return r->service;
	}
	return NO_SERVICE;
}

struct listener_request {
	__u32 half;
	__u32 ranges;
	__u32 range_count;
	__u16 vip;
	__be16 port;
};

/* Its own function: two searches that need not be verified per caller. */
__attribute__((noinline)) __u32 find_service(struct listener_request *rq)
{
	__u32 half, found;

	if (!rq)
		return NO_SERVICE;
	half = rq->half & 1;
	found = find_port(half, rq->vip, rq->port);
	if (found != NO_SERVICE || !rq->range_count)
		return found;
	return find_range(half, rq->ranges, rq->range_count, bpf_ntohs(rq->port));
}
