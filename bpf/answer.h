/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP that the packet path sends itself, from the VIP, as kernel IPVS does:
 * no usable real, time exceeded, too long for the way out. A packet that was
 * passed up instead would meet whatever listens on the director. Here is what
 * both families need for it; the message is the family's (ipv4.h).
 */
#pragma once

#include "config.h"
#include "maps.h"
#include "store.h"

struct answer {
	__u32 ip; /* offset of the IP header */
	__u32 length; /* of the packet that is answered */
	__u32 verdict; /* says which message it is */
	__u32 mtu; /* of the way out, for VERDICT_ANSWERED_TOO_BIG */
	__be32 from; /* IPv4: 0 is the destination of what is answered */
};

/* Whether the rate limit has room for one more. */
static __always_inline int take_answer_token(void)
{
	__u32 zero = 0;
	struct settings *s = get_settings();
	struct bucket *b = bpf_map_lookup_elem(&answers, &zero);
	__u64 second = bpf_jiffies64() / (jiffies_per_second ?: 1);
	__u64 used;

	if (!b)
		return 0;
	used = b->second == second ? b->used : 0;
	if (used >= s->answers)
		return 0;
	store_64(&b->second, second);
	store_64(&b->used, used + 1);
	return 1;
}

static __always_inline __u16 fold_sum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#define CHUNK 64

/* A checksum in the making: of so many bytes of the frame from an offset. */
struct summing {
	struct xdp_md *ctx;
	__s64 sum;
	__u32 at;
	__u32 size;
};

static long sum_chunk(__u32 i, struct summing *s)
{
	__u8 chunk[CHUNK] = {};
	__u32 n = s->size < CHUNK ? s->size : CHUNK;

	if (n == 0)
		return 1;
	/* Linux 6.1 loses sight of n being 1 to 64 without this. */
	asm volatile(""
		     : "+r"(n));
	n = ((n - 1) & (CHUNK - 1)) + 1;
	if (bpf_xdp_load_bytes(s->ctx, s->at, chunk, n))
		return 1;
	s->sum = bpf_csum_diff(0, 0, (__be32 *)chunk, CHUNK, s->sum);
	s->at += n;
	s->size -= n;
	return 0;
}

/*
 * The sum of so many bytes (at most `most`) of the frame from an offset, added
 * to another, for a checksum. In chunks through the stack: the quoted packet
 * has any length, and answers are rare.
 */
static __always_inline __u32 frame_sum(struct xdp_md *ctx, __u32 at, __u32 size, __u32 most,
				       __s64 sum)
{
	struct summing s = { .ctx = ctx, .sum = sum, .at = at, .size = size };

	bpf_loop((most + CHUNK - 1) / CHUNK, sum_chunk, &s, 0);
	return s.sum;
}

/* The Ethernet header and its tags, swapped, in front of the new packet, which is longer by grown. */
static __always_inline int move_ethernet(void *data, void *end, __u32 ip, __u32 grown)
{
	__u8 old[24];
	__u8 *from = data + grown;
	__u8 *to = data;

	if (data + grown + 22 > end)
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
