/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Persistence templates: which real a client of a service belongs to.
 *
 * The same kind of table as the flows'. A template is made and re-armed by
 * new connections only; while a connection of it lives, the daemon's sweeper
 * renews it by 60 s (ip_vs_conn_expire's re-arming of a controlling entry).
 * A template that never saw an established connection never takes the place
 * of one that did: spoofed SYNs cost nobody his real. Nor do spoofed SYNs with
 * their ACKs: what they make never takes the place of one that was proven.
 */
#pragma once

#include "flow.h"

#define TEMPLATE_REAL_SHIFT 24
#define TEMPLATE_GENERATION_SHIFT 44
#define TEMPLATE_NONCE_SHIFT 48
#define TEMPLATE_STATE_SHIFT 52
#define TEMPLATE_LIVE (1ULL << TEMPLATE_STATE_SHIFT)
#define TEMPLATE_BUSY (7ULL << TEMPLATE_STATE_SHIFT)
#define TEMPLATE_ASSURED (1ULL << 55)
#define TEMPLATE_RENEWED (1ULL << 56)
#define TEMPLATE_PROVEN (1ULL << 57)
#define TEMPLATE_RANK (TEMPLATE_ASSURED | TEMPLATE_PROVEN)
#define TEMPLATE_EXPIRES 0xffffffULL

static __always_inline __u32 template_state(__u64 v)
{
	return v >> TEMPLATE_STATE_SHIFT & 7;
}

static __always_inline __u32 template_real(__u64 v)
{
	return v >> TEMPLATE_REAL_SHIFT & REAL_MASK;
}

static __always_inline __u32 template_generation(__u64 v)
{
	return v >> TEMPLATE_GENERATION_SHIFT & 15;
}

/* Ticks that are left, negative when it has expired; 24-bit arithmetic. */
static __always_inline __s32 template_left(__u64 v, __u64 now)
{
	return (__s32)(((__u32)v - (__u32)now) << 8) >> 8;
}

static __always_inline __u64 template_key(__be32 client, const struct service *svc)
{
	return (client & svc->persist_mask) | (__u64)svc->cookie << 32;
}

static __always_inline __u64 template_hash(const struct settings *s, __u64 key)
{
	__u64 h = (key ^ s->seed[1]) * (s->seed[2] | 1);

	h ^= h >> 32;
	h *= s->seed[0] | 1;
	return h ^ h >> 29;
}

static __always_inline struct flow_words *template_set(__u64 hash, int second)
{
	__u32 index = second ? second_set(hash, template_sets) : first_set(hash, template_sets);

	return bpf_map_lookup_elem(&templates, &index);
}

static __always_inline __u64 template_in(struct flow_words *set, __u64 key, __u64 **place)
{
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		__u64 value;

		if (READ_ONCE_64(set->key[i]) != key)
			continue;
		value = READ_ONCE_64(set->value[i]);
		if (template_state(value) != 1)
			continue;
		if (READ_ONCE_64(set->key[i]) != key || READ_ONCE_64(set->value[i]) != value)
			continue;
		*place = &set->value[i];
		return value;
	}
	return 0;
}

/* How much a template is worth: 0 nothing yet, 1 assured, 2 proven. */
static __always_inline __u32 template_rank(__u64 v)
{
	return !!(v & TEMPLATE_ASSURED) + !!(v & TEMPLATE_PROVEN);
}

/*
 * Like place_cost: smaller is cheaper; what ranks higher is out of reach.
 * A function of its own, so that its branches do not multiply by eight ways.
 */
__attribute__((noinline)) __u64 template_cost(__u64 value, __u64 now, __u32 rank)
{
	__s32 left = template_left(value, now);

	if (template_state(value) == 0)
		return 0;
	if (template_state(value) != 1)
		return ~0ULL;
	if (left < 0)
		return 1;
	if (template_rank(value) > rank)
		return ~0ULL;
	return ((__u64)template_rank(value) << 32) + 2 + (__u32)left;
}

struct template_request {
	__u64 key;
	__u64 value; /* in: real, generation, flags; out: what is in force */
	__u64 ticks; /* lifetime */
	__u64 create; /* 0: only look (and raise its rank to that in value, if the real is the same) */
};

/* How long a template lives from now: its service's timeout, or 60 s. */
static __always_inline __u64 template_until(__u64 value, __u64 ticks, __u64 now)
{
	return (now + (value & TEMPLATE_RENEWED ? renewal_ticks : ticks)) & TEMPLATE_EXPIRES;
}

static __always_inline int template_place(struct template_request *rq, struct flow_words *a,
					  struct flow_words *b, __u64 now)
{
	__u32 rank = template_rank(rq->value);

	for (int tries = 0; tries < CLAIM_TRIES; tries++) {
		struct flow_words *set = a;
		__u64 best = ~0ULL, old, nonce, *place;
		__u32 way = 0;

#pragma unroll
		for (int i = 0; i < 2 * WAYS; i++) {
			struct flow_words *w = i < WAYS ? a : b;
			__u64 cost = template_cost(READ_ONCE_64(w->value[i & 3]), now, rank);

			if (cost < best) {
				best = cost;
				way = i;
			}
		}
		if (best == ~0ULL)
			return 1;
		set = way & 4 ? b : a;
		place = &set->value[way & 3];
		old = READ_ONCE_64(*place);
		if (template_state(old) > 1)
			continue;
		nonce = (old >> TEMPLATE_NONCE_SHIFT) + 1 & 15;
		if (__sync_val_compare_and_swap(place, old,
						TEMPLATE_BUSY | nonce << TEMPLATE_NONCE_SHIFT) != old)
			continue;
		if (template_state(old) == 1 && template_left(old, now) >= 0)
			count_eviction(old & TEMPLATE_ASSURED ? EVICTED_ASSURED : EVICTED_TEMPLATE);
		WRITE_ONCE_64(set->key[way & 3], rq->key);
		rq->value |= TEMPLATE_LIVE | nonce << TEMPLATE_NONCE_SHIFT |
			     template_until(rq->value, rq->ticks, now);
		WRITE_ONCE_64(*place, rq->value);
		return 0;
	}
	return 1;
}

/*
 * Find the client's template and re-arm it, or make one. 0: rq->value is in
 * force. 1: there is none (create not asked for, or every place is assured).
 */
__attribute__((noinline)) int template_use(struct template_request *rq)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	struct flow_words *a, *b;
	__u64 hash, value, now, wanted, *lock, *place = 0;
	struct real *real;
	__u32 slot;
	int result = 1;

	if (!s || !rq)
		return 1;
	hash = template_hash(s, rq->key);
	a = template_set(hash, 0);
	b = template_set(hash, 1);
	if (!a || !b)
		return 1;
	now = clock_now(s);
	lock = lock_key(hash);
	if (!lock)
		return 1;
	value = template_in(a, rq->key, &place);
	if (!value)
		value = template_in(b, rq->key, &place);
	if (value) {
		slot = template_real(value);
		real = bpf_map_lookup_elem(&reals, &slot);
		if (template_left(value, now) < 0 || !real ||
		    (real->flags & (REAL_THERE | REAL_SILENT)) != REAL_THERE ||
		    real->generation != template_generation(value) ||
		    (s->flags & SETTING_EXPIRE_QUIESCENT && !(real->flags & REAL_USABLE))) {
			/* ip_vs_check_template: it is no longer valid. Nor does
			 * a real that does not answer ARP keep its clients. */
			__sync_val_compare_and_swap(place, value, value & (15ULL << TEMPLATE_NONCE_SHIFT));
			value = 0;
		}
	}
	if (value) {
		wanted = value & ~TEMPLATE_EXPIRES;
		if (template_real(rq->value) == slot)
			wanted |= rq->value & TEMPLATE_RANK;
		wanted |= rq->create ? template_until(value, rq->ticks, now) :
				       value & TEMPLATE_EXPIRES;
		__sync_val_compare_and_swap(place, value, wanted);
		rq->value = wanted;
		result = 0;
	} else if (rq->create == 2) {
		result = template_place(rq, a, b, now);
	}
	unlock_key(lock);
	return result;
}
