/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which real gets a new connection. Every scheduler picks a slot of the
 * service's ring, which pkg/sched has laid out: rr and wrr by a counter that
 * all CPUs share (the kernel's order is global: curl in a loop must
 * alternate; take_turn), the hashing ones by the kernel's own hash, those that need live
 * counts by a walk over the reals in the kernel's order.
 */
#pragma once

#include <bpf/bpf_endian.h>

#include "family.h"
#include "maps.h"
#include "packet.h"
#include "record.h"
#include "store.h"

#define HASH_BUCKETS 256

/* include/linux/hash.h: hash_32 with 8 bits. */
static __always_inline __u32 hash_bucket(__u32 value)
{
	return value * 0x61C88647u >> 24;
}

static __always_inline __u64 rotate_left(__u64 x, int bits)
{
	return x << bits | x >> (64 - bits);
}

#define SIP_ROUND                         \
	do {                              \
		v0 += v1;                 \
		v1 = rotate_left(v1, 13); \
		v1 ^= v0;                 \
		v0 = rotate_left(v0, 32); \
		v2 += v3;                 \
		v3 = rotate_left(v3, 16); \
		v3 ^= v2;                 \
		v0 += v3;                 \
		v3 = rotate_left(v3, 21); \
		v3 ^= v0;                 \
		v2 += v1;                 \
		v1 = rotate_left(v1, 17); \
		v1 ^= v2;                 \
		v2 = rotate_left(v2, 32); \
	} while (0)

/* lib/siphash.c: hsiphash of one u32 on a 64-bit kernel (SipHash-1-3). */
static __always_inline __u32 hsiphash(__u32 value, __u64 key)
{
	__u64 v0 = 0x736f6d6570736575ULL ^ key, v1 = 0x646f72616e646f6dULL ^ key;
	__u64 v2 = 0x6c7967656e657261ULL ^ key, v3 = 0x7465646279746573ULL ^ key;
	__u64 b = 4ULL << 56 | value;

	v3 ^= b;
	SIP_ROUND;
	v0 ^= b;
	v2 ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}

/* ip_vs_mh.c: the key of its first hash. */
#define MH_KEY 2654435761ULL

static __always_inline __u32 ring_slot(const struct service *svc, __u32 index)
{
	__u32 at = svc->ring + index / RING_LINE_SLOTS;
	struct ring_line *line = bpf_map_lookup_elem(&rings, &at);

	return line ? line->real[index % RING_LINE_SLOTS] : NO_SLOT;
}

static __always_inline int is_usable(__u32 slot)
{
	struct real *real = bpf_map_lookup_elem(&reals, &slot);
	struct share *share;
	struct load *load;

	if (!real || !(real->flags & REAL_USABLE))
		return 0;
	if (!(real->flags & REAL_LIMITED))
		return 1;
	load = bpf_map_lookup_elem(&loads, &slot);
	share = share_of(slot, 0);
	return load && share && !is_overloaded(load, share);
}

struct walk {
	struct service *svc;
	__u32 hash; /* where the walk starts */
	__u32 value; /* mh: what is hashed */
	__u32 chosen;
	__u32 kind;
	struct cursor *cursor; /* rr */
};

/* ip_vs_sh_get_fallback, ip_vs_mh_get_fallback: go round until one is usable. */
static long walk_fallback(__u32 i, struct walk *w)
{
	__u32 size = w->svc->ring_size, index, slot;

	if (!size)
		return 1;
	if (w->kind == SCHED_MH)
		index = hsiphash((w->hash % size + i) % size + w->value, MH_KEY) % size;
	else
		index = (w->hash + (w->hash + i) % HASH_BUCKETS) & (HASH_BUCKETS - 1);
	slot = ring_slot(w->svc, index);
	if (slot == NO_SLOT)
		return 1;
	if (!is_usable(slot))
		return 0;
	w->chosen = slot;
	return 1;
}

static __always_inline __u32 pick_hashed(struct service *svc, __u32 value)
{
	struct walk w = { .svc = svc, .chosen = NO_SLOT, .kind = svc->scheduler };
	__u32 slot;

	if (svc->scheduler == SCHED_MH) {
		w.hash = hsiphash(value, MH_KEY);
		w.value = value;
		slot = ring_slot(svc, w.hash % (svc->ring_size ?: 1));
	} else {
		w.hash = hash_bucket(value);
		slot = ring_slot(svc, w.hash);
	}
	if (slot == NO_SLOT || is_usable(slot))
		return slot;
	record(STEP_FALLBACK, slot);
	if (!(svc->flags & SERVICE_FALLBACK))
		return NO_SLOT;
	bpf_loop(svc->ring_size, walk_fallback, &w, 0);
	return w.chosen;
}

/* lc and its kin: the best real so far. */
struct least {
	__u64 cost;
	__u64 weight;
	__u32 slot;
	__u32 kind; /* enum scheduler */
};

/*
 * lc: active * 256 + inactive; wlc: the same by weight; sed: (active + 1) by
 * weight; nq: an idle one first, else sed; fo: the heaviest; ovf: the heaviest
 * that has no more active ones than weight. The first of equals wins (ip_vs_lc.c,
 * ip_vs_wlc.c, ip_vs_sed.c, ip_vs_nq.c, ip_vs_fo.c, ip_vs_ovf.c). Returns 1 if
 * no other real need be looked at. A global function: it is verified once, not
 * with each real of a walk.
 */
__attribute__((noinline)) int keep_least(struct least *best, __u32 slot)
{
	struct real *real = bpf_map_lookup_elem(&reals, &slot);
	struct load *load = bpf_map_lookup_elem(&loads, &slot);
	struct share *share = share_of(slot, 0);
	__s64 active, inactive;
	__u64 cost;

	if (!best || !real || !load || !share || !(real->flags & REAL_USABLE) || is_overloaded(load, share))
		return 0;
	active = share->active > 0 ? share->active : 0;
	inactive = share->inactive > 0 ? share->inactive : 0;
	if (best->kind == SCHED_NQ && !active) {
		best->slot = slot;
		return 1;
	}
	cost = best->kind >= SCHED_SED ? active + 1 : active * 256 + inactive;
	if (best->kind >= SCHED_FO) {
		if (real->weight <= best->weight || (best->kind == SCHED_OVF && active > real->weight))
			return 0;
	} else if (best->kind == SCHED_LC) {
		if (best->slot != NO_SLOT && cost >= best->cost)
			return 0;
	} else if (best->slot != NO_SLOT && best->cost * real->weight <= cost * best->weight) {
		return 0;
	}
	best->slot = slot;
	best->cost = cost;
	best->weight = real->weight;
	return 0;
}

struct load_walk {
	struct service *svc;
	struct least best;
};

static long walk_load(__u32 i, struct load_walk *w)
{
	int is_over = keep_least(&w->best, ring_slot(w->svc, i));

	barrier_var(is_over); /* the verifier has to see the mask */
	return is_over & 1;
}

static __always_inline __u32 pick_by_load(struct service *svc)
{
	struct load_walk w = { .svc = svc, .best = { .slot = NO_SLOT, .kind = svc->scheduler } };

	bpf_loop(svc->ring_size, walk_load, &w, 0);
	return w.best.slot;
}

/*
 * rr, wrr: steps over reals that are above their threshold. Behind so many
 * steps it looks at the end of the ring, the last pass of wrr, which has every
 * real once: a real of weight 60,000 must not make a packet walk as far.
 */
#define STEPS_IN_TURN 256

static long walk_turn(__u32 i, struct walk *w)
{
	__u32 size = w->svc->ring_size, slot;

	if (!size)
		return 1;
	if (i < STEPS_IN_TURN) {
		__u64 pick = fetch_add_64(&w->cursor->picks, 1) + (STORES ? 0 : i);

		slot = ring_slot(w->svc, (pick + w->svc->start) % size);
	} else {
		slot = ring_slot(w->svc, (size - 1 - (i - STEPS_IN_TURN)) % size);
	}
	if (!is_usable(slot))
		return 0;
	w->chosen = slot;
	return 1;
}

static __always_inline __u32 pick_in_turn_within_limits(struct service *svc, __u32 index)
{
	struct cursor *cursor = bpf_map_lookup_elem(&cursors, &index);
	struct walk w = { .svc = svc, .chosen = NO_SLOT, .cursor = cursor };
	__u32 size = svc->ring_size;

	if (!cursor)
		return NO_SLOT;
	record(STEP_IN_TURN, cursor->picks);
	bpf_loop(size > STEPS_IN_TURN ? STEPS_IN_TURN + svc->ring_reals : size, walk_turn, &w, 0);
	return w.chosen;
}

/*
 * The next turn of a service. One counter for all CPUs: who asks again gets the
 * next real, wherever the packet arrives. But CPUs that open many connections at
 * once take its line from each other with each, and wait for it a third of the time
 * that a new connection takes. So one that has met others so often within a jiffy
 * takes some turns at once. No turn is given twice; their order is that of the
 * groups, and what is left of a group in the next jiffy but one is left out. A CPU
 * that has a service for itself meets nobody, and CPUs that open few connections do
 * not meet often enough: for them the order is exact.
 */
#define CONTESTS 16
#define TURNS_AT_ONCE 8

static __always_inline __u64 take_turn(struct cursor *cursor, __u32 index)
{
	__u32 at = index & (TURN_SERVICES - 1), count = 1;
	struct turns *t = bpf_map_lookup_elem(&turns, &at);
	__u64 now, pick;

	if (!STORES || !t)
		return fetch_add_64(&cursor->picks, 1);
	now = bpf_jiffies64();
	if (t->service != index || now - t->since > 1) {
		t->service = index;
		t->end = t->next;
	}
	if (t->next != t->end)
		return t->next++;
	if (t->since != now)
		t->contests = 0;
	else if (t->contests >= CONTESTS)
		count = TURNS_AT_ONCE;
	pick = fetch_add_64(&cursor->picks, count);
	t->contests += pick != t->end;
	t->next = pick + 1;
	t->end = pick + count;
	t->since = now;
	return pick;
}

static __always_inline __u32 pick_in_turn(struct service *svc, __u32 index)
{
	struct cursor *cursor = bpf_map_lookup_elem(&cursors, &index);
	__u64 pick;

	if (!cursor)
		return NO_SLOT;
	pick = take_turn(cursor, index);
	record(STEP_IN_TURN, pick);
	return ring_slot(svc, (pick + svc->start) % svc->ring_size);
}

/* A row that there is not: it is not settled, and has no real. */
#define NO_ROW (ROW_NONE | (__u64)ROW_NONE << ROW_SETTLED_SHIFT | (__u64)ROW_CHANGED << ROW_STATE_SHIFT)

/* The row of a stateless service that a hashed value names. */
static __always_inline __u64 row_of(const struct service *svc, __u32 value)
{
	struct ring_line *line;
	__u32 row, at;

	if (!svc->rows)
		return NO_ROW;
	row = svc->scheduler == SCHED_MH ? hsiphash(value, MH_KEY) : hash_bucket(value);
	row %= svc->rows;
	at = svc->ring + row / ROW_LINE_ROWS;
	line = bpf_map_lookup_elem(&rings, &at);
	return line ? READ_ONCE_64(((__u64 *)line)[row % ROW_LINE_ROWS]) : NO_ROW;
}

/* The same as a global function: it is verified once. */
__attribute__((noinline)) __u64 find_row(struct service *svc, __u32 value)
{
	return svc ? row_of(svc, value) : NO_ROW;
}

/* What the hashing schedulers hash: an address, and the client's port. */
static __always_inline __u32 hash_input(const struct service *svc, const struct packet *p)
{
	__u32 value = fold_address(svc->scheduler == SCHED_DH ? p->destination : p->source);

	return svc->flags & SERVICE_PORT ? value + bpf_ntohs(p->source_port) : value;
}

/*
 * All but rr and wrr without thresholds; a global function, so that it is
 * verified once. value is what is hashed, or the index of svc.
 */
__attribute__((noinline)) __u32 pick_by_walk(struct service *svc, __u32 value)
{
	if (!svc)
		return NO_SLOT;
	if (svc->scheduler == SCHED_RR)
		return pick_in_turn_within_limits(svc, value);
	if (svc->scheduler >= SCHED_LC) {
		record(STEP_LEAST, 0);
		return pick_by_load(svc);
	}
	record(STEP_HASHED, value);
	return pick_hashed(svc, value);
}

/* The real for a new connection, or NO_SLOT. index is svc's own. */
static __always_inline __u32 pick_real(struct service *svc, __u32 index, const struct packet *p)
{
	if (!svc->ring_size) {
		record(STEP_SORRY, svc->sorry);
		return svc->sorry;
	}
	if (svc->scheduler != SCHED_RR)
		return pick_by_walk(svc, hash_input(svc, p));
	if (svc->flags & SERVICE_LIMITED)
		return pick_by_walk(svc, index);
	return pick_in_turn(svc, index);
}
