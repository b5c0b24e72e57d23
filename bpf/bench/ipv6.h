/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The yardsticks of IPv6: floor_b, store_b and store_lru with a key of 40
 * bytes, and the generators in front of them (bench.c).
 */
#pragma once

#include <linux/ipv6.h>

struct tuple6 {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

/* max_entries of both is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple6);
	__type(value, __u32);
} table_b6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple6);
	__type(value, __u32);
} table_lru6 SEC(".maps");

/*
 * The template, with the flow's ports and the last word of its source. A load whose
 * bytes are of two stores waits until both have reached the cache. No load of a frame
 * that a card has written does, nor one of write_frame's; so the stores begin where the
 * words of the IPv6 header do, and that of the EtherType with the version behind it is
 * the last of its bytes.
 */
static __always_inline int write_frame6(struct xdp_md *ctx, struct plan *p, __u32 flow)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *to = data, *from = (__u64 *)p->frame;
	struct tuple t = tuple_of(p, flow);

	if (data + SHORT6 > end)
		return 0;
	to[9] = from[9];
#pragma unroll
	for (int i = 0; i < 8; i++)
		*(__u64 *)(data + ETHER + i * 8) = *(__u64 *)(p->frame + ETHER + i * 8);
	asm volatile("" ::
			     : "memory");
	to[0] = from[0];
	to[1] = from[1];
	*(__be32 *)(data + ETHER + 20) = t.source;
	*(__be16 *)(data + ETHER + 40) = t.source_port;
	*(__be16 *)(data + ETHER + 42) = t.destination_port;
	return 1;
}

SEC("xdp.frags")
int generate6(struct xdp_md *ctx)
{
	struct plan *p = the_plan();

	if (p && write_frame6(ctx, p, any_flow(p)))
		bpf_tail_call(ctx, &slots, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int walk6(struct xdp_md *ctx)
{
	struct plan *p = the_plan();

	if (p && write_frame6(ctx, p, p->next)) {
		p->next += p->step;
		bpf_tail_call(ctx, &slots, 0);
	}
	return XDP_ABORTED;
}

static __always_inline int parse6(struct xdp_md *ctx, struct tuple6 *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + ETHER;
	__be16 *ports = (void *)(ip + 1);

	if ((void *)(ports + 2) > end || *(__be16 *)(data + 12) != bpf_htons(ETH_P_IPV6))
		return 0;
	if (ip->version != 6 || (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP))
		return 0;
	__builtin_memcpy(t->source, &ip->saddr, sizeof(t->source));
	__builtin_memcpy(t->destination, &ip->daddr, sizeof(t->destination));
	t->source_port = ports[0];
	t->destination_port = ports[1];
	t->protocol = ip->nexthdr;
	return 1;
}

SEC("xdp.frags")
int floor_b6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tuple6 t;
	struct backend *b;
	struct count *c;
	__u32 *found;

	if (!parse6(ctx, &t) || data + ETHER + sizeof(struct ipv6hdr) > end)
		return XDP_PASS;
	found = bpf_map_lookup_elem(&table_b6, &t);
	if (!found)
		return XDP_DROP;
	b = bpf_map_lookup_elem(&backends, found);
	c = bpf_map_lookup_elem(&counts, found);
	if (!b || !c)
		return XDP_DROP;
	c->packets += 1;
	c->bytes += bpf_ntohs(((struct ipv6hdr *)(data + ETHER))->payload_len);
	rewrite(data, b);
	return XDP_TX;
}

static __always_inline int store6(struct xdp_md *ctx, void *table)
{
	struct tuple6 t;
	__u32 to;

	if (!parse6(ctx, &t))
		return XDP_PASS;
	to = t.source[3] >> 24 & 1; /* any */
	return bpf_map_update_elem(table, &t, &to, BPF_ANY) ? XDP_DROP : XDP_TX;
}

SEC("xdp.frags")
int store_b6(struct xdp_md *ctx)
{
	return store6(ctx, &table_b6);
}

SEC("xdp.frags")
int store_lru6(struct xdp_md *ctx)
{
	return store6(ctx, &table_lru6);
}
