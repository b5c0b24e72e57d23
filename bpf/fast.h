/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way of the packets that are nearly all of them: data of a proven
 * flow, in its first set, to a real on the same segment. It decides nothing
 * that the long way would decide otherwise (a test runs both); whatever is
 * unusual gets CONTINUE and is looked at from the start.
 *
 * At a million flows the flow's line comes from memory, and what a CPU does
 * meanwhile is the next packet, if it gets that far: its window holds some
 * three hundred instructions. Hence no branch here depends on which way of a
 * set a flow is in (a wrong guess would be known only when the line has come,
 * and everything behind it would be thrown away), and what is not needed to
 * find the line comes after it.
 */
#pragma once

#include "flow.h"
#include "forward.h"
#include "listen.h"

#define FAST_TCP ((__u64)(8 | STATE_ESTABLISHED)) /* PROVEN and state of a value */
#define FAST_UDP ((__u64)(8 | STATE_UDP))

/* 1 if x is 0, else 0, without a branch. */
static __always_inline __u64 is_zero(__u64 x)
{
	asm volatile(""
		     : "+r"(x)); /* or clang sees through it */
	return (~x & (x - 1)) >> 63;
}

/* The flow whose key this is; any of the set if there is none, or two. */
static __always_inline __u64 *flow_of(struct flow_words *set, __u64 key)
{
	__u64 one = is_zero(READ_ONCE_64(set->key[1]) ^ key);
	__u64 two = is_zero(READ_ONCE_64(set->key[2]) ^ key);
	__u64 three = is_zero(READ_ONCE_64(set->key[3]) ^ key);
	__u64 way = one + 2 * two + 3 * three;

	return &set->key[way & (WAYS - 1)];
}

static __always_inline int lease_lives(const struct vip *vip)
{
	__u32 lease = vip->lease & (LEASES - 1);
	__u64 *until = bpf_map_lookup_elem(&leases, &lease);

	return until && bpf_jiffies64() <= *until;
}

/* A real that may get the packets of its flows, and nothing else to mind. */
static __always_inline int plain(const struct real *real, __u64 value, int tcp)
{
	__u32 mind = REAL_THERE | REAL_LOCAL | REAL_FILTERED;

	if (!tcp)
		mind |= REAL_SILENT;
	return (real->flags & mind) == REAL_THERE && real->generation == value_generation(value);
}

static __always_inline int fast(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETHER;
	__u32 zero = 0, slot = interface_slot, length;
	struct interface *me;
	struct settings *s;
	struct flow_words *set;
	struct vip *vip;
	struct real *real;
	__u64 key, hash, value, now, kind, *at;
	__be16 port;
	int tcp;

	/* IPv4, no options, no fragment, TCP or UDP; long enough for TCP. */
	if (data + ETHER + 40 > end)
		return CONTINUE;
	if (*(__be16 *)(data + 12) != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45 ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE))
		return CONTINUE;
	tcp = ip->protocol == IPPROTO_TCP;
	if (tcp) {
		if ((*(__u8 *)(data + ETHER + 33) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
			return CONTINUE;
	} else if (ip->protocol != IPPROTO_UDP) {
		return CONTINUE;
	}
	me = bpf_map_lookup_elem(&interfaces, &slot);
	s = bpf_map_lookup_elem(&settings, &zero);
	if (!me || !s || !for_us(data, me))
		return CONTINUE;
	vip = find_vip(s, ip->daddr);
	if (!vip || (vip->flags && (vip->flags != VIP_LEASED || !lease_lives(vip))))
		return CONTINUE;

	port = *(__be16 *)(data + ETHER + 22);
	key = flow_key(ip->saddr, *(__be16 *)(data + ETHER + 20), tcp ? vip->tcp : vip->udp);
	hash = flow_hash(s, key, port);
	set = flow_set(first_set(hash, flow_sets));
	if (!set)
		return CONTINUE;
	at = flow_of(set, key);
	value = READ_ONCE_64(at[WAYS]);
	if (READ_ONCE_64(at[0]) != key || (READ_ONCE_64(at[WAYS]) ^ value) & IDENTITY)
		return CONTINUE;
	kind = value >> STATE_SHIFT;
	now = clock_now(s);
	if (kind != (tcp ? FAST_TCP : FAST_UDP) || value_port(value) != port || flow_expired(s, value, now))
		return CONTINUE;
	length = bpf_ntohs(ip->tot_len);
	if (length < 40 || ip->ttl <= 1)
		return CONTINUE;

	slot = value_real(value);
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !plain(real, value, tcp) || length > real->mtu)
		return CONTINUE;
	if ((value & SEEN_MASK) != (now & SEEN_MASK))
		*(volatile __u16 *)&at[WAYS] = now;
	count_packet(slot, length, 0);
	rewrite(data, real, ip);
	return send(ctx, real, VERDICT_FORWARDED);
}
