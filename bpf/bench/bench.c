// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Yardsticks. A generator writes a frame and tail-calls the program that is
 * measured; the same with answer_tx in its place is the baseline that is
 * subtracted. Generators are short: what a CPU has to run between two cold
 * loads decides how much of one it can hide behind the other.
 *
 *   walk       one flow after the other
 *   generate   any flow, as the plan has it
 *   quote      an ICMP error that quotes a packet of the flow
 *   ..._own    the same by the CPU's own plan: two CPUs send at once
 *
 *   answer_tx  returns XDP_TX at once
 *   floor_a    rewrites both MACs: no direct router can do less
 *   floor_b    parse, one lookup in a kernel hash map, an array, a per-CPU
 *              counter: what a balancer with kernel maps cannot go below
 *   store_b    puts the flow into floor_b's map
 *   store_lru  puts the flow into an LRU map
 *
 * ipv6.h has those that look at addresses once more, for IPv6, ways.h the
 * generators in front of tunnels and NAT, and wire.h both ends of a guest's wire.
 *
 * BPF_PROG_TEST_RUN does not restore the frame between runs, so they
 * write all of it. All are xdp.frags, as the program that is measured: the
 * kernel lets only like programs into one PROG_ARRAY.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include "plan.h"

#define ETHER 14
#define BACKENDS 1024

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PLAN_OF_SECOND + 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct tuple {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

/* max_entries of both is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, __u32);
} table_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, __u32);
} table_lru SEC(".maps");

struct backend {
	__u8 mac[8];
	__u8 source[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

/* Interface that send_frames sends by. */
volatile const __u32 way_out = 0;

/* Any flow: Knuth's linear congruential generator, whose high bits are good. */
static __always_inline __u32 any_flow(struct plan *p)
{
	__u64 x = p->random * 6364136223846793005ULL + 1442695040888963407ULL;
	__u32 among = p->flows;

	p->random = x;
	if ((__u32)(x >> 16) < p->share)
		among = p->hot;
	return (x >> 32) * among >> 32;
}

/* Who a flow is: eight of them share a client. */
static __always_inline struct tuple tuple_of(const struct plan *p, __u32 flow)
{
	struct tuple t = {
		.source = bpf_htonl(0x0a000000 + (flow >> 3)),
		.source_port = 4 + ((flow & 7) << 8), /* 1024 to 1031, in network byte order */
		.destination = p->vip,
		.destination_port = p->port[0],
	};

	if (p->vips > 1)
		t.destination = bpf_htonl(bpf_ntohl(p->vip) +
					  ((__u64)(flow * 0x9e3779b1u) * p->vips >> 32));
	if (p->ports > 1)
		t.destination_port = p->port[flow & 1];
	return t;
}

/* The template, with the flow's tuple. */
static __always_inline int write_frame(struct xdp_md *ctx, struct plan *p, __u32 flow)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *to = data, *from = (__u64 *)p->frame;
	struct tuple t = tuple_of(p, flow);

	if (data + SHORT > end)
		return 0;
#pragma unroll
	for (int i = 0; i < SHORT / 8; i++)
		to[i] = from[i];
	*(__be32 *)(data + ETHER + 12) = t.source;
	*(__be32 *)(data + ETHER + 16) = t.destination;
	*(__be16 *)(data + ETHER + 20) = t.source_port;
	*(__be16 *)(data + ETHER + 22) = t.destination_port;
	return 1;
}

static __always_inline struct plan *the_plan(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&plans, &zero);
}

static __always_inline struct plan *own_plan(void)
{
	__u32 at = bpf_get_smp_processor_id() & 1 ? PLAN_OF_SECOND : 0;

	return bpf_map_lookup_elem(&plans, &at);
}

static __always_inline int send_any(struct xdp_md *ctx, struct plan *p)
{
	if (p && write_frame(ctx, p, any_flow(p)))
		bpf_tail_call(ctx, &slots, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int generate(struct xdp_md *ctx)
{
	return send_any(ctx, the_plan());
}

SEC("xdp.frags")
int generate_own(struct xdp_md *ctx)
{
	return send_any(ctx, own_plan());
}

static __always_inline int send_next(struct xdp_md *ctx, struct plan *p)
{
	if (p && write_frame(ctx, p, p->next)) {
		p->next += p->step;
		bpf_tail_call(ctx, &slots, 0);
	}
	return XDP_ABORTED;
}

SEC("xdp.frags")
int walk(struct xdp_md *ctx)
{
	return send_next(ctx, the_plan());
}

SEC("xdp.frags")
int walk_own(struct xdp_md *ctx)
{
	return send_next(ctx, own_plan());
}

SEC("xdp.frags")
int quote(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *quoted = data + ETHER + 28;
	struct plan *p = the_plan();
	struct tuple t;

	if (!p || data + FRAME > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, p->frame, FRAME);
	t = tuple_of(p, any_flow(p));
	*(__be32 *)(data + ETHER + 16) = t.destination;
	quoted->saddr = t.destination;
	quoted->daddr = t.source;
	*(__be16 *)(data + ETHER + 48) = t.destination_port;
	*(__be16 *)(data + ETHER + 50) = t.source_port;
	bpf_tail_call(ctx, &slots, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int send_frames(struct xdp_md *ctx)
{
	struct plan *p = the_plan();

	return p && write_frame(ctx, p, any_flow(p)) ? bpf_redirect(way_out, 0) : XDP_ABORTED;
}

SEC("xdp.frags")
int answer_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp.frags")
int answer_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags")
int answer_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/* Counts what arrives, for the far end of a wire. */
SEC("xdp.frags")
int sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct count *c = bpf_map_lookup_elem(&counts, &zero);

	if (c)
		c->packets += 1;
	return XDP_DROP;
}

static __always_inline void rewrite(void *data, const struct backend *b)
{
	__builtin_memcpy(data, b->mac, 6);
	__builtin_memcpy(data + 6, b->source, 6);
}

SEC("xdp.frags")
int floor_a(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct backend *b = bpf_map_lookup_elem(&backends, &zero);

	if (!b || data + ETHER > end)
		return XDP_PASS;
	rewrite(data, b);
	return XDP_TX;
}

static __always_inline int parse(struct xdp_md *ctx, struct tuple *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETHER;
	__be16 *ports = (void *)(ip + 1);

	if ((void *)(ports + 2) > end || *(__be16 *)(data + 12) != bpf_htons(ETH_P_IP))
		return 0;
	if (ip->ihl != 5 || (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return 0;
	t->source = ip->saddr;
	t->destination = ip->daddr;
	t->source_port = ports[0];
	t->destination_port = ports[1];
	t->protocol = ip->protocol;
	return 1;
}

SEC("xdp.frags")
int floor_b(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tuple t;
	struct backend *b;
	struct count *c;
	__u32 *found;

	if (!parse(ctx, &t) || data + ETHER + sizeof(struct iphdr) > end)
		return XDP_PASS;
	found = bpf_map_lookup_elem(&table_b, &t);
	if (!found)
		return XDP_DROP;
	b = bpf_map_lookup_elem(&backends, found);
	c = bpf_map_lookup_elem(&counts, found);
	if (!b || !c)
		return XDP_DROP;
	c->packets += 1;
	c->bytes += bpf_ntohs(((struct iphdr *)(data + ETHER))->tot_len);
	rewrite(data, b);
	return XDP_TX;
}

/* Any flow has a real: which one does not matter here. */
static __always_inline __u32 any(const struct tuple *t)
{
	return (t->source >> 24 ^ t->source_port) & 1;
}

SEC("xdp.frags")
int store_b(struct xdp_md *ctx)
{
	struct tuple t;
	__u32 to;

	if (!parse(ctx, &t))
		return XDP_PASS;
	to = any(&t);
	return bpf_map_update_elem(&table_b, &t, &to, BPF_ANY) ? XDP_DROP : XDP_TX;
}

SEC("xdp.frags")
int store_lru(struct xdp_md *ctx)
{
	struct tuple t;
	__u32 to;

	if (!parse(ctx, &t))
		return XDP_PASS;
	to = any(&t);
	return bpf_map_update_elem(&table_lru, &t, &to, BPF_ANY) ? XDP_DROP : XDP_TX;
}

#include "ipv6.h"
#include "ways.h"
#include "wire.h"

char _license[] SEC("license") = "Dual BSD/GPL";
