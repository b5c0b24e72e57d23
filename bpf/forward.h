/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sending a frame to a real: its MAC as destination, ours as source (the
 * client's would move the client's MAC to our port of the switch), TTL one
 * less (it bounds every loop).
 */
#pragma once

#include "maps.h"
#include "parse.h"
#include "stats.h"

/* A verdict and what XDP does with it, in one number. */
#define OUTCOME(verdict, action) ((verdict) | (action) << 8)
#define PASS(verdict) OUTCOME(verdict, XDP_PASS)
#define DROP(verdict) OUTCOME(verdict, XDP_DROP)

static __always_inline void rewrite(void *data, const struct real *real, struct iphdr *ip)
{
	__u32 sum;

	*(__u32 *)data = *(__u32 *)real->mac;
	*(__u16 *)(data + 4) = *(__u16 *)(real->mac + 4);
	*(__u32 *)(data + 6) = *(__u32 *)real->source;
	*(__u16 *)(data + 10) = *(__u16 *)(real->source + 4);
	/* RFC 1624, for a TTL that is one less: include/net/ip.h, ip_decrease_ttl */
	sum = ip->check + bpf_htons(0x0100);
	ip->check = sum + (sum >= 0xffff);
	ip->ttl -= 1;
}

static __always_inline int send(struct xdp_md *ctx, const struct real *real, int verdict)
{
	if (real->ifindex == ctx->ingress_ifindex)
		return OUTCOME(verdict, XDP_TX);
	if (verdict == VERDICT_FORWARDED)
		verdict = VERDICT_REDIRECTED;
	return OUTCOME(verdict, bpf_redirect(real->ifindex, 0));
}
