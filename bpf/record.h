/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Recording how a packet is decided. Two more programs come of the same
 * source: with LVX_EXPLAIN one that answers a question and stores nothing
 * (store.h), with LVX_TRACE one that serves as ever while somebody watches.
 * In the program that serves otherwise nothing of this is left.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "family.h"
#include "packet.h"

#if defined(LVX_EXPLAIN) || defined(LVX_TRACE)

#include "recording.h"

#define RECORDS 1

/* The packet that this CPU works on. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct recording);
} recording SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} recordings SEC(".maps");

/* Bytes of each frame that are kept, at most FRAME_MOST. */
volatile const __u32 keep_most = 0;

volatile struct recording_filter recording_filter;
volatile __u64 recordings_lost; /* because nobody read fast enough */

volatile const enum step names_of_steps = 0;
volatile const enum recording_size names_of_recording_sizes = 0;

static __always_inline struct recording *get_recording(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&recording, &zero);
}

/* Keep the start of the frame behind what is kept already; how much it was. */
static __always_inline __u32 keep_frame(struct xdp_md *ctx, struct recording *r, __u32 at)
{
	__u32 size = bpf_xdp_get_buff_len(ctx);

	if (size > keep_most)
		size = keep_most;
	if (size == 0)
		return 0;
	/* Linux 6.1 loses sight of both bounds without this. */
	asm volatile(""
		     : "+r"(size), "+r"(at));
	size = ((size - 1) & (FRAME_MOST - 1)) + 1;
	at &= FRAMES_MOST - FRAME_MOST - 1;
	return bpf_xdp_load_bytes(ctx, 0, r->frames + at, size) ? 0 : size;
}

__attribute__((noinline)) int record_start(struct xdp_md *ctx)
{
	struct recording *r = get_recording();

	if (!r)
		return 0;
	r->nanoseconds = bpf_ktime_get_ns();
	__builtin_memset(&r->source, 0, sizeof(r->source));
	__builtin_memset(&r->destination, 0, sizeof(r->destination));
	r->source_port = r->destination_port = 0;
	r->version = r->protocol = 0;
	r->ifindex = ctx->ingress_ifindex;
	r->steps = 0;
	r->length_in = bpf_xdp_get_buff_len(ctx);
	r->length_out = r->kept_out = 0;
	r->kept_in = keep_frame(ctx, r, 0);
	return 0;
}

__attribute__((noinline)) int record_step(__u32 step, __u64 value)
{
	struct recording *r = get_recording();
	__u32 at;

	if (!r)
		return 0;
	at = r->steps;
	if (at < STEPS_MOST) {
		r->step[at].step = step;
		r->step[at].value = value;
	}
	r->steps = at + 1;
	return 0;
}

static __always_inline void record(__u32 step, __u64 value)
{
	record_step(step, value);
}

/* Who the packet is from and to: ports too, where the path itself never comes to ask for them. */
static __always_inline void record_packet(void *data, void *end, const struct packet *p)
{
	struct recording *r = get_recording();
	struct packet copy = *p;

	if (!r)
		return;
	if ((p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) &&
	    !(p->fragment & bpf_htons(0x1fff))) /* the first, or whole */
		parse_ports(data, end, &copy);
	r->source = full_address(p->source);
	r->destination = full_address(p->destination);
	r->version = IP_VERSION;
	r->source_port = copy.source_port;
	r->destination_port = copy.destination_port;
	r->protocol = p->protocol;
}

static __always_inline int is_in(const volatile struct address *net, const volatile struct address *mask,
				 const struct address *addr)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if ((addr->word[i] & mask->word[i]) != net->word[i])
			return 0;
	}
	return 1;
}

static __always_inline int is_wanted(const struct recording *r)
{
	volatile struct recording_filter *f = &recording_filter;

	if (f->verdicts && !(f->verdicts >> (r->verdict & 63) & 1))
		return 0;
	if (f->protocol && f->protocol != r->protocol)
		return 0;
	if (f->version && f->version != r->version)
		return 0;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (!is_in(&f->net[i], &f->mask[i], &r->source) &&
		    !is_in(&f->net[i], &f->mask[i], &r->destination))
			return 0;
		if (f->port[i] && f->port[i] != r->source_port && f->port[i] != r->destination_port)
			return 0;
	}
	return 1;
}

__attribute__((noinline)) int record_end(struct xdp_md *ctx, int outcome)
{
	struct recording *r = get_recording();
	__u32 size = sizeof(*r) - FRAMES_MOST;

	if (!r)
		return 0;
	r->verdict = outcome & 0xff;
	r->action = outcome >> 8;
	if (!is_wanted(r))
		return 0;
	if (r->action == XDP_TX || r->action == XDP_REDIRECT) {
		r->length_out = bpf_xdp_get_buff_len(ctx);
		r->kept_out = keep_frame(ctx, r, r->kept_in);
	}
	size += r->kept_in + r->kept_out;
	if (size > sizeof(*r))
		return 0;
	if (bpf_ringbuf_output(&recordings, r, size, 0))
		__sync_fetch_and_add(&recordings_lost, 1);
	return 0;
}

#else

#define RECORDS 0

#define record(step, value) ((void)0)

static __always_inline int record_start(struct xdp_md *ctx)
{
	return 0;
}

static __always_inline void record_packet(void *data, void *end, const struct packet *p)
{
}

static __always_inline int record_end(struct xdp_md *ctx, int outcome)
{
	return 0;
}

#endif
