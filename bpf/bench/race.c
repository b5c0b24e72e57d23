// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Does every packet go to its own flow's real? This program is run on several
 * CPUs at once. It writes a packet of some flow, lets the program under test
 * have it, and looks at what became of it: the tail call is made in a function
 * of its own, so what is called returns here, and each packet is looked at.
 *
 * The service is scheduled by the client's address (sh), so the client alone
 * says which real is the right one: any other MAC in the frame is a misdirection,
 * whatever the flow table held at that moment.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#define ETHER 14
#define SIZE 64
#define SIZE6 80
#define BUCKETS 256
#define FLOWS 64

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} slot SEC(".maps");

/* Which MAC the clients of a bucket belong to. */
struct owner {
	__u8 mac[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, struct owner);
} owners SEC(".maps");

/* What one CPU has seen. */
struct seen {
	__u64 random; /* state of its generator */
	__u64 right; /* forwarded to the real that is the client's */
	__u64 wrong; /* forwarded to another one */
	__u64 others; /* passed or dropped */
	__be32 client; /* of the last wrong one */
	__u32 spare;
	__u8 mac[8]; /* where that one went */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} sights SEC(".maps");

/* Who sends. */
struct flow {
	__be32 client; /* of IPv6 the last word */
	__be16 port;
	__u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} senders SEC(".maps");

volatile const __be32 vip = 0;
volatile const __u64 director = 0; /* its MAC, the last two bytes 0 */

volatile const __u32 is_ipv6 = 0;
volatile const __be32 vip6[4] = {};
volatile const __be32 network[3] = {}; /* of the clients of IPv6 */

/* Lets the program under test have the frame. Global, or the verifier takes the answer for known. */
__attribute__((noinline)) int hand_over(struct xdp_md *ctx)
{
	int answer = XDP_ABORTED;

	bpf_tail_call(ctx, &slot, 0);
	asm volatile(""
		     : "+r"(answer));
	return answer;
}

static __always_inline __u64 draw(struct seen *s)
{
	s->random = s->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return s->random >> 32;
}

/* Openings, data, and ends: places must change hands all the time. */
static __always_inline __u8 any_flags(__u32 dice)
{
	static const __u8 flags[16] = { 2, 2, 2, 2, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 17, 4 };

	return flags[dice & 15];
}

/* TCP or UDP of so many bytes to port 80. */
static __always_inline void write_transport(void *l4, const struct flow *f, __u32 size, __u32 dice)
{
	__be16 *ports = l4;

	ports[0] = f->port;
	ports[1] = bpf_htons(80);
	if (f->protocol == IPPROTO_UDP) {
		ports[2] = bpf_htons(size);
		return;
	}
	*(__u8 *)(l4 + 12) = 0x50;
	*(__u8 *)(l4 + 13) = any_flags(dice);
}

static __always_inline int write_packet(struct xdp_md *ctx, const struct flow *f, __u32 dice)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETHER;

	if (data + SIZE > end)
		return 0;
	__builtin_memset(data, 0, SIZE);
	*(__u64 *)data = director;
	*(__be16 *)(data + 12) = bpf_htons(ETH_P_IP);
	ip->ihl = 5;
	ip->version = 4;
	ip->ttl = 64;
	ip->tot_len = bpf_htons(SIZE - ETHER);
	ip->saddr = f->client;
	ip->daddr = vip;
	ip->protocol = f->protocol;
	write_transport(ip + 1, f, SIZE - ETHER - sizeof(*ip), dice);
	return 1;
}

static __always_inline int write_packet6(struct xdp_md *ctx, const struct flow *f, __u32 dice)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + ETHER;

	if (data + SIZE6 > end)
		return 0;
	__builtin_memset(data, 0, SIZE6);
	*(__u64 *)data = director;
	*(__be16 *)(data + 12) = bpf_htons(ETH_P_IPV6);
	ip->version = 6;
	ip->hop_limit = 64;
	ip->payload_len = bpf_htons(SIZE6 - ETHER - sizeof(*ip));
	ip->nexthdr = f->protocol;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		ip->saddr.s6_addr32[i] = i < 3 ? network[i] : f->client;
		ip->daddr.s6_addr32[i] = vip6[i];
	}
	write_transport(ip + 1, f, SIZE6 - ETHER - sizeof(*ip), dice);
	return 1;
}

/* ip_vs_sh_hashkey: of IPv6 the words are XORed. */
static __always_inline __u32 bucket_of(const struct flow *f)
{
	__be32 folded = f->client;

	if (is_ipv6)
		folded ^= network[0] ^ network[1] ^ network[2];
	return bpf_ntohl(folded) * 0x61c88647u >> 24;
}

SEC("xdp.frags")
int race(struct xdp_md *ctx)
{
	__u32 zero = 0, number, bucket, dice;
	struct seen *s = bpf_map_lookup_elem(&sights, &zero);
	struct owner *o;
	struct flow *f;
	void *data;
	int answer;

	if (!s)
		return XDP_ABORTED;
	number = draw(s) * FLOWS >> 32;
	dice = draw(s) >> 16;
	f = bpf_map_lookup_elem(&senders, &number);
	if (!f || !(is_ipv6 ? write_packet6(ctx, f, dice) : write_packet(ctx, f, dice)))
		return XDP_ABORTED;
	answer = hand_over(ctx);

	data = (void *)(long)ctx->data;
	bucket = bucket_of(f);
	o = bpf_map_lookup_elem(&owners, &bucket);
	if (!o || data + ETHER > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (answer != XDP_TX) {
		s->others += 1;
		return XDP_DROP;
	}
	if (!__builtin_memcmp(data, o->mac, 6)) {
		s->right += 1;
		return XDP_TX;
	}
	s->wrong += 1;
	s->client = f->client;
	__builtin_memcpy(s->mac, data, 6);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
