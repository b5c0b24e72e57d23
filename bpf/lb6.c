//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet path of IPv6: a short way (fast6.h), and the very same steps as
 * lb.c's, compiled with LVX_IPV6 and with what is the family's own (ipv6.h). lb
 * calls it for frames of IPv6 by the map families, so that IPv4 does not pay for
 * it.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "config.h"
#include "stats.h"
#include "long.h"
#include "absorb.h"
#include "pieces.h"
#include "fast6.h"

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("xdp.frags")
int lb6(struct xdp_md *ctx)
{
	/* What is recorded goes the long way, each step of which says so. */
	int outcome = RECORDS ? CONTINUE : short_way(ctx);

	record_start(ctx);
	if (outcome == CONTINUE)
		outcome = long_way(ctx);
	record_end(ctx, outcome);
	count_verdict(outcome & 0xff);
	return outcome >> 8;
}
