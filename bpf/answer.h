/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP that the packet path sends itself, from the VIP, as kernel IPVS does:
 * port unreachable without a usable real, time exceeded, fragmentation
 * needed. A packet that was passed up instead would meet whatever listens on
 * the director.
 */
#pragma once

#include "config.h"
#include "forward.h"

#define QUOTE_MOST 548 /* 576 - IP header - ICMP header, as icmp_send has it */
#define ICMP_HEADERS 28

static __always_inline int may_answer(void)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	struct bucket *b = bpf_map_lookup_elem(&answers, &zero);
	__u64 second = bpf_jiffies64() / (jiffies_per_second ?: 1);

	if (!s || !b)
		return 0;
	if (b->second != second) {
		b->second = second;
		b->used = 0;
	}
	if (b->used >= s->answers)
		return 0;
	b->used += 1;
	return 1;
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

struct answer {
	__u32 ip; /* offset of the IP header */
	__u32 length; /* of the packet that is answered */
	__u32 verdict; /* what to report if it is sent */
	__u8 type;
	__u8 code;
	__u16 mtu;
};

static __always_inline void fill_ip(struct iphdr *reply, const struct iphdr *quoted, __u32 size)
{
	__u32 sum = 0;
	__u16 *word = (__u16 *)reply;

	reply->version = 4;
	reply->ihl = 5;
	reply->tos = (quoted->tos & 0x1e) | 0xc0; /* icmp_send: internet control */
	reply->tot_len = bpf_htons(size + ICMP_HEADERS);
	reply->id = (__u16)bpf_get_prandom_u32();
	reply->frag_off = 0;
	reply->ttl = 64;
	reply->protocol = IPPROTO_ICMP;
	reply->check = 0;
	reply->saddr = quoted->daddr;
	reply->daddr = quoted->saddr;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	reply->check = fold(sum);
}

#define CHUNK 64

/*
 * The ICMP checksum of so many bytes from an offset. In chunks through the
 * stack: the quoted packet has any length, and answers are rare.
 */
static __always_inline __u16 icmp_sum(struct xdp_md *ctx, __u32 at, __u32 size)
{
	__s64 sum = 0;

	for (int i = 0; i < (QUOTE_MOST + 8 + CHUNK - 1) / CHUNK; i++) {
		__u8 chunk[CHUNK] = {};
		__u32 n = size < CHUNK ? size : CHUNK;

		if (n == 0)
			break;
		/* Linux 6.1 loses sight of n being 1 to 64 without this. */
		asm volatile(""
			     : "+r"(n));
		n = ((n - 1) & (CHUNK - 1)) + 1;
		if (bpf_xdp_load_bytes(ctx, at, chunk, n))
			break;
		sum = bpf_csum_diff(0, 0, (__be32 *)chunk, CHUNK, sum);
		at += n;
		size -= n;
	}
	return fold(sum);
}

/* The Ethernet header and its tags, swapped, in front of the new packet. */
static __always_inline int move_ethernet(void *data, void *end, __u32 ip)
{
	__u8 old[24];
	__u8 *from = data + ICMP_HEADERS;
	__u8 *to = data;

	if (data + ICMP_HEADERS + 22 > end)
		return 0;
	__builtin_memcpy(old, from, 22);
	__builtin_memcpy(to, old + 6, 6);
	__builtin_memcpy(to + 6, old, 6);
	__builtin_memcpy(to + 12, old + 12, 2);
	if (ip >= 18)
		__builtin_memcpy(to + 14, old + 14, 4);
	if (ip >= 22)
		__builtin_memcpy(to + 18, old + 18, 4);
	return 1;
}

/* Turn the frame into the answer. Its own function: it is verified once. */
__attribute__((noinline)) int answer(struct xdp_md *ctx, struct answer *a)
{
	void *data, *end;
	struct iphdr *reply;
	struct icmp *icmp;
	__u32 size, ip, frame;
	__u16 sum;

	if (!a)
		return DROP(VERDICT_NO_REAL);
	if (!may_answer())
		return DROP(VERDICT_ANSWER_LIMITED);
	ip = a->ip;
	if (ip != 14 && ip != 18 && ip != 22)
		return DROP(VERDICT_NO_REAL);
	size = a->length < QUOTE_MOST ? a->length : QUOTE_MOST;
	frame = bpf_xdp_get_buff_len(ctx);
	if (bpf_xdp_adjust_tail(ctx, (int)(ip + size) - (int)frame) ||
	    bpf_xdp_adjust_head(ctx, -ICMP_HEADERS))
		return DROP(VERDICT_NO_REAL);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (!move_ethernet(data, end, ip))
		return DROP(VERDICT_NO_REAL);
	if (ip > 22)
		return DROP(VERDICT_NO_REAL);
	reply = data + ip;
	if ((void *)reply + ICMP_HEADERS + sizeof(*reply) > end)
		return DROP(VERDICT_NO_REAL);
	icmp = (void *)(reply + 1);
	fill_ip(reply, (void *)(icmp + 1), size);
	icmp->type = a->type;
	icmp->code = a->code;
	icmp->checksum = 0;
	icmp->unused = 0;
	icmp->mtu = bpf_htons(a->mtu);
	/* The checksum last: its helper calls end what is known of the frame. */
	sum = icmp_sum(ctx, ip + sizeof(*reply), size + sizeof(*icmp));
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	icmp = data + ip + sizeof(*reply);
	if ((void *)(icmp + 1) > end)
		return DROP(VERDICT_NO_REAL);
	icmp->checksum = sum;
	return OUTCOME(a->verdict, XDP_TX);
}
