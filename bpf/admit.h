/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether the director may serve a packet at all: is the address a VIP, does
 * another director own it, has a fellow director sent the packet to this host
 * as a real server, does the VIP's lease live.
 */
#pragma once

#include "config.h"
#include "family.h"
#include "maps.h"
#include "run.h"

/* The line that a search for a VIP touches i-th. */
static __always_inline struct vip_line *vip_line_at(const struct settings *s, ip_t addr, __u32 i)
{
	__u32 hash = vip_hash(addr);
	__u64 at = (s->half & 1) * VIP_LINES + ((hash + i) & (VIP_LINES - 1));

	barrier_var(at); /* of a sum Linux 6.1 knows no bound */
	return &VALUE_OF(vips)[at & (2 * VIP_LINES - 1)];
}

static __always_inline int has_address(const struct vip *v, ip_t addr)
{
	return is_address((const __u64 *)v->addr.word, addr);
}

/* The VIP, if the i-th line of its search has it; in *more whether a later one may. */
static __always_inline struct vip *find_vip_in(const struct settings *s, ip_t addr, __u32 i,
					       int *more)
{
	struct vip_line *line = vip_line_at(s, addr, i);
	struct vip *vip;

	*more = 1;
	vip = &line->way[0];
	if (has_address(vip, addr))
		return vip;
	vip = &line->way[1];
	if (has_address(vip, addr))
		return vip;
	*more = vip->tcp | vip->udp; /* a line that is not full is the last */
	return 0;
}

static __always_inline struct vip *find_vip(const struct settings *s, ip_t addr)
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

/* A packet for none of our VIPs: only where reals are reached by NAT may it be a reply. */
static __always_inline int pass_foreign(const struct settings *s)
{
#ifndef LVX_IPV6
	if (s->flags & SETTING_NAT)
		return MAYBE_REPLY;
#endif
	return PASS(VERDICT_NOT_OURS);
}

static __always_inline int lease_is_alive(const struct vip *vip)
{
	__u32 lease = vip->lease & (LEASES - 1);
	__u64 *until = bpf_map_lookup_elem(&leases, &lease);

	return until && bpf_jiffies64() <= *until;
}

/* Whether the director that had the VIPs may yet tell of connections. */
static __always_inline int may_be_told(void)
{
	__u32 first = 0;
	__u64 *until = bpf_map_lookup_elem(&takeover, &first);

	return until && bpf_jiffies64() <= *until;
}

/*
 * The address is this host's: a VIP that is served here, or another one. What
 * comes by the wire cannot be from it (fib_validate_source). A global
 * function: it is verified once.
 */
__attribute__((noinline)) int is_own_address(ip_t addr)
{
	__u32 slot = interface_slot;
	struct settings *s = get_settings();
	struct interface *me = bpf_map_lookup_elem(&interfaces, &slot);
	struct vip *vip;

	if (!me || IS_MISSING(addr))
		return 0;
	vip = find_vip(s, addr);
	if (vip && !(vip->flags & VIP_STANDBY))
		return 1;
	for (int i = 0; i < OWN_ADDRESSES; i++) {
		const __u64 *word = (const __u64 *)me->own[i].word;

		if (!(word[0] | word[1]))
			break;
		if (is_address(word, addr))
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

/* Whether somebody else answers for a VIP now: another director, or nobody after the lease. */
static __always_inline int is_silent(const struct settings *s, ip_t addr)
{
	struct vip *vip = find_vip(s, addr);

	return vip && (vip->flags & VIP_STANDBY || (vip->flags & VIP_LEASED && !lease_is_alive(vip)));
}
