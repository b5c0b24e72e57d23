/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether the director may serve a packet at all: is the address a VIP, does
 * another director own it, has a fellow director sent the packet to this host
 * as a real server, does the VIP's lease live. And what must not be answered
 * while another director owns the VIP: ARP.
 */
#pragma once

#include "config.h"
#include "maps.h"
#include "run.h"

/* The line that a search for a VIP touches i-th. */
static __always_inline struct vip_line *vip_line_at(const struct settings *s, __be32 addr, __u32 i)
{
	__u32 hash = addr * 0x9e3779b1u >> 18;
	__u32 at = (s->half & 1) * VIP_LINES + ((hash + i) & (VIP_LINES - 1));

	return bpf_map_lookup_elem(&vips, &at);
}

/* Whether a struct address is this one of IPv4. */
static __always_inline int is_ipv4(const __u64 *word, __be32 addr)
{
	return word[0] == 0 && word[1] == ((__u64)addr << 32 | bpf_htonl(0xffff));
}

static __always_inline int has_address(const struct vip *v, __be32 addr)
{
	return is_ipv4((const __u64 *)v->addr.word, addr);
}

/* The VIP, if the i-th line of its search has it; in *more whether a later one may. */
static __always_inline struct vip *find_vip_in(const struct settings *s, __be32 addr, __u32 i,
					       int *more)
{
	struct vip_line *line = vip_line_at(s, addr, i);
	struct vip *vip;

	*more = 1;
	if (!line)
		return 0;
	vip = &line->way[0];
	if (has_address(vip, addr))
		return vip;
	vip = &line->way[1];
	if (has_address(vip, addr))
		return vip;
	*more = vip->tcp | vip->udp; /* a line that is not full is the last */
	return 0;
}

static __always_inline struct vip *find_vip(const struct settings *s, __be32 addr)
{
	int more = 1;

#pragma unroll
	for (int i = 0; i < PROBES; i++) {
		struct vip *vip = find_vip_in(s, addr, i, &more);

		if (vip || !more)
			return vip;
	}
	return 0;
}

static __always_inline int lease_is_alive(const struct vip *vip)
{
	__u32 lease = vip->lease & (LEASES - 1);
	__u64 *until = bpf_map_lookup_elem(&leases, &lease);

	return until && bpf_jiffies64() <= *until;
}

/*
 * The address is this host's: a VIP that is served here, or another one. What
 * comes by the wire cannot be from it (fib_validate_source). A global
 * function: it is verified once.
 */
__attribute__((noinline)) int is_own_address(__be32 addr)
{
	__u32 zero = 0, slot = interface_slot;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	struct interface *me = bpf_map_lookup_elem(&interfaces, &slot);
	struct vip *vip;

	if (!s || !me)
		return 0;
	vip = find_vip(s, addr);
	if (vip && !(vip->flags & VIP_STANDBY))
		return 1;
	for (int i = 0; i < OWN_ADDRESSES; i++) {
		const __u64 *word = (const __u64 *)me->own[i].word;

		if (!(word[0] | word[1]))
			break;
		if (is_ipv4(word, addr))
			return 1;
	}
	return 0;
}

static __always_inline int is_from_peer(const struct run *r)
{
	__u64 from = *(__u64 *)(r->data + 4) >> 16;

#pragma unroll
	for (int i = 0; i < PEERS; i++) {
		__u64 mac = *(__u64 *)r->me->peer[i].mac;

		if (mac && mac == from)
			return 1;
	}
	return 0;
}

/*
 * Standby, peers, lease: what a flagged VIP has to be asked first. What a
 * peer sends to a director that is a real server is meant for that: it has
 * been balanced, or it is a check through the VIP, with the peer's own
 * address. A director without a daemon is still a real server, so this comes
 * before the lease.
 */
static __always_inline int admit(const struct run *r)
{
	if (r->vip->flags & VIP_STANDBY)
		return PASS(VERDICT_STANDBY);
	if (r->vip->flags & VIP_PEERS && is_from_peer(r))
		return PASS(VERDICT_FROM_PEER);
	if (r->vip->flags & VIP_LEASED && !lease_is_alive(r->vip))
		return DROP(VERDICT_LEASE_OVER);
	return CONTINUE;
}

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
static __always_inline int pass_or_silence_arp(struct run *r, int verdict)
{
	struct arp *arp = r->data + ETHER;

	if (*(__be16 *)(r->data + 12) != bpf_htons(ETH_P_ARP) || (void *)(arp + 1) > r->end ||
	    arp->operation != bpf_htons(ARP_REQUEST) ||
	    four_bytes(arp->sender) == four_bytes(arp->target))
		return PASS(verdict);
	r->vip = find_vip(r->s, four_bytes(arp->target));
	if (!r->vip)
		return PASS(verdict);
	if (r->vip->flags & VIP_STANDBY || (r->vip->flags & VIP_LEASED && !lease_is_alive(r->vip)))
		return DROP(VERDICT_ARP_SILENCED);
	return PASS(verdict);
}
