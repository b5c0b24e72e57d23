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

/* The first fragment went to r->slot, to the kernel (NO_SLOT), or nowhere: so do the others. */
static __always_inline void note_fragment(const struct run *r, int outcome)
{
	struct fragment note = {
		.real = r->slot,
		.generation = r->real ? real_generation(r->real) : 0,
		.tick = clock_now(r->s),
	};

	if (outcome < 0 || outcome >> 8 == XDP_DROP)
		note.real = NOTE_DROPPED;
	store_note(&r->p, &note);
}

/* A fragment that is not the first: after its first. */
static __always_inline int forward_fragment(struct run *r)
{
	struct fragment *note = find_note(&r->p);
	struct real *real;

	/* An old note is of another datagram: identifications come round. */
	if (note && (__u16)((__u16)clock_now(r->s) - note->tick) <= fragment_ticks) {
		record(STEP_NOTE, note->real);
		if (note->real == NO_SLOT)
			return PASS(VERDICT_NO_LISTENER);
		if (note->real == NOTE_DROPPED)
			return DROP(VERDICT_FRAGMENT_LOST);
		real = bpf_map_lookup_elem(&reals, &note->real);
		if (real && real->flags & REAL_THERE && real_generation(real) == note->generation)
			return send_to(r, real, note->real, VERDICT_FORWARDED);
	}
	record(STEP_NO_NOTE, 0);
	if (hold_fragment(r))
		return DROP(VERDICT_FRAGMENT_LOST);
	return DROP(VERDICT_FRAGMENT_HELD);
}
