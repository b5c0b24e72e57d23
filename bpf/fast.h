/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way of the packets that are nearly all of them: data of a proven
 * flow to a real on the same segment. It decides nothing that the long way
 * would decide otherwise (a test runs both); whatever is unusual gets CONTINUE
 * and is looked at from the start.
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

/*
 * What a proven flow's value has besides real, generation and nonce: PROVEN,
 * and ESTABLISHED or UDP, which differ in one bit. Which of them need not be
 * asked: the VIP's number in the key is the protocol's own.
 */
#define FAST_KIND ((__u64)(8 | STATE_ESTABLISHED) << STATE_SHIFT)
#define FAST_UDP ((__u64)(STATE_ESTABLISHED ^ STATE_UDP) << STATE_SHIFT)
#define FAST_MASK ((PROVEN | STATE_MASK | 0xffffULL << PORT_SHIFT) & ~FAST_UDP)

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
	if (!line->way[0].vip)
		return 1; /* it is empty, as most are */
#pragma unroll
	for (int w = 0; w < 7; w++)
		same |= if_zero(*(__u32 *)&line->way[w] ^ wanted, 1);
	return !same;
}

/* The VIP, if the first line where it would be has it; in *full if that line goes on. */
static __always_inline struct vip *near_vip(const struct settings *s, __be32 addr, int *full)
{
	__u32 at = (s->half & 1) * VIP_LINES + (addr * 0x9e3779b1u >> 18);
	struct vip_line *line = bpf_map_lookup_elem(&vips, &at);
	struct vip *vip;

	*full = 1;
	if (!line)
		return 0;
	vip = &line->way[0];
	if (same_address(vip, addr))
		return vip;
	vip = &line->way[1];
	if (same_address(vip, addr))
		return vip;
	*full = vip->tcp | vip->udp;
	return 0;
}

/*
 * A packet that no flow owns, or that is no plain data. Strays to ports where
 * nobody listens are many on the Internet; everything else has to be looked at.
 */
static __always_inline int stray(const struct settings *s, const struct vip *vip, __u64 key,
				 __be16 port, struct flow_words *first, __u64 hash)
{
	struct flow_words *second;

	if (vip->tcp_ranges | vip->udp_ranges || !unheard(s->half, key >> 48, port))
		return CONTINUE;
	second = flow_set(second_set(hash, flow_sets));
	if (!second || in_set(first, key) || in_set(second, key))
		return CONTINUE;
	return PASS(VERDICT_NO_LISTENER);
}

/* The packet is all there, and so long at least: what the long way asks first. */
static __always_inline int whole(struct xdp_md *ctx, const struct iphdr *ip, __u32 least)
{
	__u32 length = bpf_ntohs(ip->tot_len);

	return length >= least && length <= (__u32)(ctx->data_end - ctx->data) - ETHER;
}

/* A real that may get this packet of a live flow, and nothing else to mind. */
static __always_inline int plain(__u64 way, __u64 value)
{
	__u64 mind = (REAL_THERE | REAL_LOCAL | REAL_FILTERED) << 8 | 15;

	/* UDP moves away from a real that is silent: bit 62 tells, REAL_SILENT is bit 14. */
	mind |= value >> 48 & REAL_SILENT << 8;
	return (way >> 48 & mind) == (REAL_THERE << 8 | value_generation(value));
}

static __always_inline int fast(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETHER;
	__u32 at = 0, flags = TCP_ACK, length;
	__u16 *number;
	struct flow_words *first, *second;
	struct settings *s;
	struct counter *c;
	struct real *real;
	struct vip *vip;
	__u64 key, hash, value, now, way, *place;
	int full;

	/* IPv4 without options, at least as long as TCP needs. */
	if (data + ETHER + 40 > end || (*(__u32 *)(data + 12) & 0x00ffffff) != 0x450008)
		return CONTINUE;
	if ((*(__u64 *)data ^ own_mac) << 16)
		return PASS(VERDICT_NOT_OUR_MAC);
	s = bpf_map_lookup_elem(&settings, &at);
	if (!s)
		return CONTINUE;
	hash = flow_hash(s, ip->saddr, *(__be16 *)(data + ETHER + 20), ip->daddr,
			 *(__be16 *)(data + ETHER + 22));
	first = flow_set(first_set(hash, flow_sets));
	if (!first)
		return CONTINUE;
	vip = near_vip(s, ip->daddr, &full);
	if (!vip)
		return full || !whole(ctx, ip, sizeof(*ip)) ? CONTINUE : PASS(VERDICT_NOT_OURS);
	if ((vip->flags && (vip->flags != VIP_LEASED || !lease_lives(vip))) ||
	    ip->frag_off & bpf_htons(FRAGMENT_OFFSET | FRAGMENT_MORE))
		return CONTINUE;
	if (ip->protocol == IPPROTO_TCP) {
		flags = *(__u8 *)(data + ETHER + 33) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
		number = &vip->tcp;
	} else if (ip->protocol == IPPROTO_UDP) {
		number = &vip->udp;
	} else {
		return CONTINUE;
	}
	barrier_var(flags);

	key = flow_key(ip->saddr, *(__be16 *)(data + ETHER + 20), *number);
	if (flags != TCP_ACK)
		goto nobodys;
	place = place_of(first, key);
	value = READ_ONCE_64(place[WAYS]);
	if (READ_ONCE_64(place[0]) != key) { /* one flow in forty is in its second set */
		second = flow_set(second_set(hash, flow_sets));
		if (!second)
			return CONTINUE;
		place = place_of(second, key);
		value = READ_ONCE_64(place[WAYS]);
		if (READ_ONCE_64(place[0]) != key)
			goto nobodys;
	}
	if ((value ^ (FAST_KIND | (__u64) * (__be16 *)(data + ETHER + 22) << PORT_SHIFT)) & FAST_MASK ||
	    (READ_ONCE_64(place[WAYS]) ^ value) & IDENTITY)
		return CONTINUE;

	at = value_real(value);
	real = bpf_map_lookup_elem(&reals, &at);
	if (!real)
		return CONTINUE;
	way = *(__u64 *)real->mac; /* with generation and flags */
	length = bpf_ntohs(ip->tot_len);
	if (!plain(way, value) || length > real->mtu || ip->ttl <= 1)
		return CONTINUE;
	if (!whole(ctx, ip, 40))
		return CONTINUE; /* cut short, or in several buffers */
	now = clock_now(s);
	if (flow_age(value, now)) {
		if (flow_expired(s, value, now))
			return CONTINUE;
		*(volatile __u16 *)&place[WAYS] = now;
	}
	c = bpf_map_lookup_elem(&counters, &at);
	if (c) {
		c->packets += 1;
		c->bytes += length;
	}
	rewrite(data, real, ip);
	return send(ctx, real, VERDICT_FORWARDED);

nobodys:
	if (!whole(ctx, ip, 40) || martian(ip->saddr))
		return CONTINUE;
	return stray(s, vip, key, *(__be16 *)(data + ETHER + 22), first, hash);
}
