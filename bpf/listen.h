/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a VIP's number and a port to a service, for new connections. An exact
 * port wins over a range; every port is a range, which user space has cut to
 * what the others leave.
 */
#pragma once

#include <bpf/bpf_endian.h>

#include "maps.h"
#include "set.h"

#define NO_SERVICE 0xffffffffu

/* struct port's first word: the VIP's number and the port. */
static __always_inline __u32 port_word(__u16 vip, __be16 port)
{
	return vip | (__u32)port << 16;
}

/* The line that a search touches i-th. */
static __always_inline struct port_line *port_line_at(__u32 half, __u32 wanted, __u32 i)
{
	__u32 hash = wanted * 0x9e3779b1u >> 16;
	__u32 at = (half & 1) * PORT_LINES + ((hash + i) & (PORT_LINES - 1));

	return bpf_map_lookup_elem(&ports, &at);
}

/* Whether one of the line's ways but the last is the port's. Without a branch. */
static __always_inline int line_has_port(struct port_line *line, __u32 wanted)
{
	__u32 found = 0;

#pragma unroll
	for (int w = 0; w < 7; w++)
		found |= if_zero(*(__u32 *)&line->way[w] ^ wanted, 1);
	return found;
}

/* The search ends with a line whose last way is free. */
static __always_inline int is_last_line(struct port_line *line)
{
	return !line->way[7].vip;
}

/* Reports whether the first line of a search says that no service has the port. */
static __always_inline int port_is_unused(__u32 half, __u32 wanted)
{
	struct port_line *line = port_line_at(half, wanted, 0);

	if (!line || !is_last_line(line))
		return 0;
	if (!line->way[0].vip)
		return 1; /* it is empty, as most are */
	return !line_has_port(line, wanted);
}

static __always_inline __u32 find_port(__u32 half, __u32 wanted)
{
#pragma unroll
	for (int i = 0; i < PROBES; i++) {
		struct port_line *line = port_line_at(half, wanted, i);

		if (!line)
			return NO_SERVICE;
#pragma unroll
		for (int w = 0; w < 8; w++) {
			if (*(__u32 *)&line->way[w] == wanted)
				return line->way[w].service;
		}
		if (is_last_line(line))
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
	found = find_port(half, port_word(rq->vip, rq->port));
	if (found != NO_SERVICE || !rq->range_count)
		return found;
	return find_range(half, rq->ranges, rq->range_count, bpf_ntohs(rq->port));
}

/*
 * The service of a port that the first place of its search has, as most have:
 * without a call. NO_SERVICE if it is elsewhere, or nowhere.
 */
static __always_inline __u32 find_service_at_once(__u32 half, __u32 wanted)
{
	struct port_line *line = port_line_at(half, wanted, 0);

	if (!line || *(__u32 *)&line->way[0] != wanted)
		return NO_SERVICE;
	return line->way[0].service;
}
