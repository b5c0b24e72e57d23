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

/* What a proven flow's value has besides real, generation and nonce. */
#define FAST_TCP ((__u64)(8 | STATE_ESTABLISHED) << STATE_SHIFT)
#define FAST_UDP ((__u64)(8 | STATE_UDP) << STATE_SHIFT)
#define FAST_MASK (PROVEN | STATE_MASK | 0xffffULL << PORT_SHIFT)

/* offset if x is 0, else 0, without a branch (or offset, if x has bit 63). */
static __always_inline __u64 if_zero(__u64 x, __u64 offset)
{
	x -= 1;
	asm volatile(""
		     : "+r"(x)); /* or clang sees through it */
	return (__u64)((__s64)x >> 63) & offset;
}

/*
 * The place whose key this is; any of the set if there is none, or two. A sum:
 * the verifier of older kernels (6.1) forgets the bounds of what it ORs.
 */
static __always_inline __u64 *place_of(struct flow_words *set, __u64 key)
{
	__u64 offset = if_zero(READ_ONCE_64(set->key[1]) ^ key, 8) +
		       if_zero(READ_ONCE_64(set->key[2]) ^ key, 16) +
		       if_zero(READ_ONCE_64(set->key[3]) ^ key, 24);

	return (void *)set + (offset & 24);
}

static __always_inline int lease_lives(const struct vip *vip)
{
	__u32 lease = vip->lease & (LEASES - 1);
	__u64 *until = bpf_map_lookup_elem(&leases, &lease);

	return until && bpf_jiffies64() <= *until;
}

static __always_inline int in_set(struct flow_words *set, __u64 key)
{
	return set->key[0] == key || set->key[1] == key || set->key[2] == key || set->key[3] == key;
}

/* 1 if the first line where the port would be says that nobody listens. */
static __always_inline int unheard(__u32 half, __u32 number, __u32 port)
{
	__u32 wanted = number | port << 16;
	__u32 at = (half & 1) * PORT_LINES + (wanted * 0x9e3779b1u >> 16);
	struct port_line *line = bpf_map_lookup_elem(&ports, &at);
	__u32 same = 0;

	if (!line || line->way[7].vip)
		return 0; /* it is full: there may be a next one */
#pragma unroll
	for (int w = 0; w < 7; w++)
		same |= if_zero(*(__u32 *)&line->way[w] ^ wanted, 1);
	return !same;
}

/*
 * A packet that no flow of the first set owns. Strays to ports where nobody
 * listens are many on the Internet; everything else has to be looked at. Not
 * inlined: the frames of a chain of calls may take 512 bytes together, each
 * rounded up to 32 by older kernels (6.1), and this one is in no deep chain.
 */
static __attribute__((noinline)) int stray(const struct settings *s, const struct vip *vip, __u64 key,
					   __u64 hash, __be16 port)
{
	struct flow_words *first = flow_set(first_set(hash, flow_sets));
	struct flow_words *second = flow_set(second_set(hash, flow_sets));

	if (vip->tcp_ranges | vip->udp_ranges || !unheard(s->half, key >> 48, port) ||
	    !unheard(s->half, key >> 48, 0))
		return CONTINUE;
	if (!first || !second || in_set(first, key) || in_set(second, key))
		return CONTINUE;
	return PASS(VERDICT_NO_LISTENER);
}

static __always_inline int fast(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETHER;
	__u32 at = interface_slot, mind = REAL_THERE | REAL_LOCAL | REAL_FILTERED, length, flags;
	struct flow_words *set;
	struct interface *me;
	struct settings *s;
	struct real *real;
	struct vip *vip;
	__u64 key, hash, value, now, way, wanted = FAST_TCP, *place;
	__be16 port, number;

	/* IPv4 without options, at least as long as TCP needs. */
	if (data + ETHER + 40 > end || (*(__u32 *)(data + 12) & 0x00ffffff) != 0x450008)
		return CONTINUE;
	me = bpf_map_lookup_elem(&interfaces, &at);
	at = 0;
	s = bpf_map_lookup_elem(&settings, &at);
	if (!me || !s)
		return CONTINUE;
	if (!for_us(data, me))
		return PASS(VERDICT_NOT_OUR_MAC);
	length = bpf_ntohs(ip->tot_len);
	if (length < 40)
		return CONTINUE;
	vip = find_vip(s, ip->daddr);
	if (!vip)
		return PASS(VERDICT_NOT_OURS);
	if ((vip->flags && (vip->flags != VIP_LEASED || !lease_lives(vip))) ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE))
		return CONTINUE;
	number = vip->tcp;
	flags = *(__u8 *)(data + ETHER + 33) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
	if (ip->protocol != IPPROTO_TCP) {
		if (ip->protocol != IPPROTO_UDP)
			return CONTINUE;
		number = vip->udp;
		wanted = FAST_UDP;
		mind |= REAL_SILENT;
		flags = TCP_ACK;
	}

	port = *(__be16 *)(data + ETHER + 22);
	key = flow_key(ip->saddr, *(__be16 *)(data + ETHER + 20), number);
	hash = flow_hash(s, key, port);
	set = flow_set(first_set(hash, flow_sets));
	if (!set)
		return CONTINUE;
	place = place_of(set, key);
	value = READ_ONCE_64(place[WAYS]);
	if (READ_ONCE_64(place[0]) != key)
		return stray(s, vip, key, hash, port);
	wanted |= (__u64)port << PORT_SHIFT;
	if (flags != TCP_ACK || (value ^ wanted) & FAST_MASK ||
	    (READ_ONCE_64(place[WAYS]) ^ value) & IDENTITY)
		return CONTINUE;

	now = clock_now(s);
	at = value_real(value);
	real = bpf_map_lookup_elem(&reals, &at);
	if (!real)
		return CONTINUE;
	way = *(__u64 *)real->mac; /* with generation and flags */
	wanted = REAL_THERE << 8 | value_generation(value);
	if ((way >> 48 & (mind << 8 | 15)) != wanted || length > real->mtu || ip->ttl <= 1 ||
	    flow_expired(s, value, now))
		return CONTINUE;
	if (flow_age(value, now))
		*(volatile __u16 *)&place[WAYS] = now;
	count_packet(at, length, 0);
	rewrite(data, real, ip);
	return send(ctx, real, VERDICT_FORWARDED);
}
