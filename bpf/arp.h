/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ARP requests for a VIP that must not be answered now. */
#pragma once

#include "admit.h"

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

static __always_inline __be32 four_bytes(const __u8 *at)
{
	return at[0] | at[1] << 8 | at[2] << 16 | (__u32)at[3] << 24;
}

/*
 * Frames that are not balanced go to the kernel, but for one kind: a request
 * "who has VIP" while another director owns the VIP, or after the lease ran
 * out. The kernel would answer as long as the address is on any interface,
 * and two hosts would. An announcement (sender is target) asks nothing.
 */
static __always_inline int pass_or_silence(struct run *r, int verdict)
{
	__u32 at = parse_ethernet(r->data, r->end, bpf_htons(ETH_P_ARP));
	struct arp *arp = r->data + at;

	if (!at || (void *)(arp + 1) > r->end ||
	    arp->operation != bpf_htons(ARP_REQUEST) ||
	    four_bytes(arp->sender) == four_bytes(arp->target))
		return PASS(verdict);
	return is_silent(r->s, four_bytes(arp->target)) ? DROP(VERDICT_ARP_SILENCED) : PASS(verdict);
}
