/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments: only the first has ports. It leaves a note which real the
 * datagram went to; the others follow the note. One that comes before the
 * first goes to the daemon, which holds it and sends it after the first.
 */
#pragma once

#include "flow.h"
#include "family.h"
#include "record.h"

/* The first fragment went to slot, or (NO_REAL) to the kernel. */
static __always_inline void note_fragment(const struct settings *s, const struct packet *p,
					  __u32 slot, __u32 generation)
{
	struct fragment_key key = fragment_key_of(p);
	struct fragment note = {
		.real = slot,
		.generation = generation,
		.tick = clock_now(s),
	};

	if (STORES)
		bpf_map_update_elem(&fragments, &key, &note, BPF_ANY);
}

/* Hand the frame to the daemon. 0 if it took it. */
static __always_inline int hold_fragment(struct xdp_md *ctx, const struct settings *s,
					 const struct fragment_key *key)
{
	__u64 size = bpf_xdp_get_buff_len(ctx);
	struct held_frame *h;

	if (bpf_jiffies64() > s->alive)
		return 1;
	if (size < ETHER || size > sizeof(h->frame))
		return 1;
	if (!STORES)
		return 0;
	h = bpf_ringbuf_reserve(&held, sizeof(*h), 0);
	if (!h)
		return 1;
	h->key = *key;
	h->ifindex = ctx->ingress_ifindex;
	h->size = size;
	if (bpf_xdp_load_bytes(ctx, 0, h->frame, size)) {
		bpf_ringbuf_discard(h, 0);
		return 1;
	}
	bpf_ringbuf_submit(h, 0);
	return 0;
}

/* A fragment that is not the first: after its first. */
static __always_inline int forward_fragment(struct run *r)
{
	struct fragment_key key = fragment_key_of(&r->p);
	struct fragment *note = bpf_map_lookup_elem(&fragments, &key);
	struct real *real;

	/* An old note is of another datagram: identifications come round. */
	if (note && (__u16)((__u16)clock_now(r->s) - note->tick) <= fragment_ticks) {
		record(STEP_NOTE, note->real);
		if (note->real == NO_REAL)
			return PASS(VERDICT_NO_LISTENER);
		real = bpf_map_lookup_elem(&reals, &note->real);
		if (real && real->flags & REAL_THERE && real_generation(real) == note->generation)
			return send_to(r, real, note->real, VERDICT_FORWARDED);
	}
	record(STEP_NO_NOTE, 0);
	if (hold_fragment(r->ctx, r->s, &key))
		return DROP(VERDICT_FRAGMENT_LOST);
	return DROP(VERDICT_FRAGMENT_HELD);
}
