/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Persistence templates: which real a client of a service belongs to.
 *
 * The same kind of table as the flows'. A template is made and re-armed by
 * new connections only; while a connection of it lives, the daemon's sweeper
 * renews it by 60 s (ip_vs_conn_expire's re-arming of a controlling entry).
 * A template that never saw an established connection never takes the place
 * of one that did: spoofed SYNs cost no client its real. Nor do spoofed SYNs
 * with their ACKs: what they make never takes the place of one that was proven.
 */
#pragma once

#include "flow.h"
#include "family.h"
#include "record.h"

static __always_inline struct set *template_set(__u32 index)
{
	return bpf_map_lookup_elem(&TEMPLATES, &index);
}

static __always_inline struct match template_match(void)
{
	struct match m = {
		.changeable = TEMPLATE_EXPIRES | TEMPLATE_RENEWED | TEMPLATE_RANK,
		.owner = current_network(),
	};

	return m;
}

/*
 * What it would cost to take a template's place: 0 for a free or expired one;
 * one that ranks higher is out of reach. Arithmetic, as for flows (flow_cost).
 */
static __always_inline __u32 template_cost(__u64 value, __u64 now, __u32 rank)
{
	__u64 left = template_left(value, now); /* bit 63: it has expired */
	__u64 is_short = if_zero(left >> 16, ~0ULL);
	__u64 is_free = left | if_zero(value_state(value), ~0ULL);
	__u64 is_above = (__u64)rank - template_rank(value);
	__u64 cost = (__u64)(template_rank(value) + 1) << 16 | ((left | ~is_short) & 0xffff);

	is_free = (__s64)is_free >> 63;
	is_above = (__s64)is_above >> 63;
	asm volatile(""
		     : "+r"(is_free), "+r"(is_above)); /* or clang makes branches of them */
	return ((cost | (is_above & CLASS_BUSY << 16)) & ~is_free) |
	       if_zero(value_state(value) ^ STATE_BUSY, CLASS_BUSY << 16);
}

/* The place for a new template of this rank. A global function, like choose_flow_place. */
__attribute__((noinline)) __u64 choose_template_place(struct set *a, struct set *b, __u64 now,
						      __u32 rank)
{
	struct costs c;
	struct costs *in_memory = &c;

	if (!a || !b)
		return ~0ULL;
	asm volatile(""
		     : "+r"(in_memory)
		     :
		     : "memory"); /* eight costs in registers would cost twice the stack */
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		in_memory->first[i] = template_cost(READ_ONCE_64(a->value[i]), now, rank);
		asm volatile("" ::
				     : "memory");
		in_memory->second[i] = template_cost(READ_ONCE_64(b->value[i]), now, rank);
		asm volatile("" ::
				     : "memory");
	}
	return set_choose(a, b, in_memory);
}

enum template_action {
	TEMPLATE_RAISE, /* find it; raise its rank to that in value, if the real is the same */
	TEMPLATE_REARM, /* find it and re-arm it */
	TEMPLATE_CREATE, /* the same, or make it */
};

struct template_request {
	__u64 key;
	__u64 value; /* in: real, generation, flags; out: what is in force */
	__u64 ticks; /* lifetime */
	__u64 action; /* enum template_action */
};

/* How long a template lives from now: its service's timeout, or 60 s. */
static __always_inline __u64 template_until(__u64 value, __u64 ticks, __u64 now)
{
	return (now + (value & TEMPLATE_RENEWED ? renewal_ticks : ticks)) & TEMPLATE_EXPIRES;
}

/* 0 if it was stored, in *place, 1 if there is no place for it. */
static __always_inline int template_insert(struct template_request *rq, struct set *a,
					   struct set *b, __u64 **place, __u64 now)
{
	__u32 rank = template_rank(rq->value);

	for (int tries = 0; tries < CLAIM_TRIES; tries++) {
		__u64 choice = choose_template_place(a, b, now, rank);
		struct claim c;

		if (is_out_of_reach(choice))
			return 1;
		c = claim_for(a, b, choice);
		if (!set_claim(&c))
			continue;
		if (value_state(c.old) != STATE_EMPTY && template_left(c.old, now) >= 0)
			count_eviction(c.old & TEMPLATE_ASSURED ? EVICTED_ASSURED : EVICTED_TEMPLATE);
		if (c.owner)
			set_own(&c, current_network());
		store_64(c.key, rq->key);
		rq->value |= TEMPLATE_LIVE | c.nonce | template_until(rq->value, rq->ticks, now);
		store_64(c.value, rq->value);
		*place = c.value;
		return 0;
	}
	return 1;
}

/* Whether a real keeps its clients. One that does not answer ARP does not. */
static __always_inline int keeps_clients(const struct settings *s, const struct real *real)
{
	return (real->flags & (REAL_THERE | REAL_SILENT)) == REAL_THERE &&
	       (!(s->flags & SETTING_EXPIRE_QUIESCENT) || real->flags & REAL_USABLE);
}

/*
 * Whether a template is in force: new connections may follow it
 * (ip_vs_check_template). A packet of a connection that there is only asks
 * whether its time is over: its real may keep its clients again before the
 * next connection comes.
 */
static __always_inline int template_is_valid(const struct settings *s, __u64 value, __u64 now,
					     __u64 action)
{
	__u32 slot = template_real(value);
	struct real *real = bpf_map_lookup_elem(&reals, &slot);

	return template_left(value, now) >= 0 && real &&
	       real_generation(real) == template_generation(value) &&
	       (action == TEMPLATE_RAISE || keeps_clients(s, real));
}

/*
 * Find the client's template and do as asked. 0: rq->value is in force. 1:
 * there is none (it was not to be made, or every place is worth more).
 */
__attribute__((noinline)) int template_use(struct template_request *rq)
{
	__u32 at = 0;
	struct settings *s = get_settings();
	__u64 hash, value, now, wanted, *lock, *place = 0;
	struct set *a, *b;
	int result = 1;

	if (!rq)
		return 1;
	hash = template_hash(s, rq->key);
	a = template_set(first_set(hash, template_sets));
	b = template_set(second_set(hash, template_sets));
	if (!a || !b)
		return 1;
	now = clock_now(s);
	lock = set_lock(hash);
	if (!lock)
		return 1;
	value = set_find_in_both(a, b, rq->key, template_match(), &at);
	place = place_at(a, b, at);
	if (value && !template_is_valid(s, value, now, rq->action)) {
		set_free(place, value);
		value = 0;
	}
	if (value) {
		if (rq->action == TEMPLATE_REARM)
			record(STEP_TEMPLATE, value);
		wanted = value & ~TEMPLATE_EXPIRES;
		if (template_real(rq->value) == template_real(value))
			wanted |= rq->value & TEMPLATE_RANK;
		wanted |= rq->action == TEMPLATE_RAISE ? value & TEMPLATE_EXPIRES :
							 template_until(value, rq->ticks, now);
		swap_64(place, value, wanted);
		rq->value = wanted;
		result = 0;
	} else if (rq->action == TEMPLATE_CREATE) {
		result = template_insert(rq, a, b, &place, now);
	}
	set_unlock(lock);
	if (result)
		return 1;
	/* Computed again: kept, it would cost stack (struct run). */
	if (!place)
		return 0;
	hash = template_hash(s, rq->key);
	a = template_set(first_set(hash, template_sets));
	if (a)
		note_news(s, &TEMPLATE_NEWS, a, place, hash, template_sets);
	return 0;
}
