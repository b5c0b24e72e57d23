/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Direct routing: the frame gets the real's MAC as destination and ours as
 * source (the client's would move the client's MAC to our port of the switch).
 * What is behind the Ethernet header loses one from its TTL (ipv4.h), which
 * bounds every loop.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "packet.h"
#include "types.h"
#include "vlan.h"

static __always_inline void rewrite_macs(void *data, const struct real *real)
{
	*(__u32 *)data = *(__u32 *)real->mac;
	*(__u16 *)(data + 4) = *(__u16 *)(real->mac + 4);
	*(__u32 *)(data + 6) = *(__u32 *)real->source;
	*(__u16 *)(data + 10) = *(__u16 *)(real->source + 4);
}

/* Out by the interface that the real is reached by, which is no VLAN's. */
static __always_inline int transmit(struct xdp_md *ctx, const struct real *real, int verdict)
{
	if (real->ifindex == ctx->ingress_ifindex)
		return OUTCOME(verdict, XDP_TX);
	if (verdict == VERDICT_FORWARDED)
		verdict = VERDICT_REDIRECTED;
	return OUTCOME(verdict, bpf_redirect(real->ifindex, 0));
}

/* The same, of every real. */
static __always_inline int transmit_tagged(struct xdp_md *ctx, const struct real *real, int verdict)
{
	if (real->generation & FORWARD_TAGGED << 4)
		return leave_tagged(ctx, real->ifindex, verdict);
	return transmit(ctx, real, verdict);
}
