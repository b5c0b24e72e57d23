/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A wire in a guest, where instructions are counted: frames that a kernel's stack
 * takes, too, and at the far end a look at what becomes of each.
 *
 *   wire_request  one flow after the other, over and over: its client's frame
 *   wire_reply    what the real of the plan's address and port sends
 *   arrive        counts what has the wanted address and port, and all else
 *
 * Between the first one's making and the last one's arrival lies all that their way
 * has taken. What prog-run waits for before and behind it does not count.
 */
#pragma once

struct arrival {
	__be32 address; /* the wanted one: the source of a reply, the destination of a request */
	__be16 port;
	__u16 is_reply;
	__u64 wanted; /* so many */
	__u64 right; /* so many have come, */
	__u64 wrong; /* and so many others */
	__u64 began; /* when the first one was made, */
	__u64 ended; /* and when the last of those that are wanted was there */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrival);
} arrivals SEC(".maps");

static __always_inline struct arrival *the_arrival(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&arrivals, &zero);
}

/* The kernel looks at the header's checksum. */
static __always_inline int sum_header(struct xdp_md *ctx)
{
	__u16 *word = (void *)(long)ctx->data + ETHER;
	__u32 sum = 0;

	if ((void *)(word + 10) > (void *)(long)ctx->data_end)
		return 0;
	word[5] = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	word[5] = ~sum;
	return 1;
}

static __always_inline int send_by_wire(struct xdp_md *ctx, int is_reply)
{
	struct arrival *a = the_arrival();
	struct plan *p = the_plan();
	__u32 flow;

	if (!p || !a)
		return XDP_ABORTED;
	if (!a->began)
		a->began = bpf_ktime_get_ns();
	flow = p->next;
	p->next = flow + 1 < p->flows ? flow + 1 : 0;
	if (!write_frame(ctx, p, flow) || (is_reply && !turn_round(ctx)) || !sum_header(ctx))
		return XDP_ABORTED;
	return bpf_redirect(way_out, 0);
}

SEC("xdp.frags")
int wire_request(struct xdp_md *ctx)
{
	return send_by_wire(ctx, 0);
}

SEC("xdp.frags")
int wire_reply(struct xdp_md *ctx)
{
	return send_by_wire(ctx, 1);
}

SEC("xdp.frags")
int arrive(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETHER;
	__be16 *ports = (void *)(ip + 1);
	struct arrival *a = the_arrival();

	if (!a)
		return XDP_DROP;
	if ((void *)(ports + 2) <= end && *(__be16 *)(data + 12) == bpf_htons(ETH_P_IP) &&
	    ip->protocol == IPPROTO_TCP && (a->is_reply ? ip->saddr : ip->daddr) == a->address &&
	    (a->is_reply ? ports[0] : ports[1]) == a->port)
		a->right++;
	else
		a->wrong++;
	if (a->right == a->wanted)
		a->ended = bpf_ktime_get_ns();
	return XDP_DROP;
}
