/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A set-associative table, of flows (flow.h) and of templates (template.h).
 *
 * A set is one cache line with four ways, each a key and a value; a key may be
 * in either of two sets that its hash names. A hit in the first set costs one
 * cache miss; a kernel hash map costs two and a half. The table is its own
 * policy: expiry is a comparison, and a new entry takes the cheapest of eight
 * places, so none is refused and what is worth little never displaces what is
 * worth more.
 *
 * Two CPUs may meet in a set. A place changes hands in three steps: claim the
 * place (compare-and-swap its value to STATE_BUSY with the next nonce), write
 * the key, write the value. A reader that has matched a key reads value, key,
 * value: if anything but what its owner may change differs, the place is
 * changing hands, and the reader takes it for another's. (This order is enough
 * on x86, whose loads and stores are not reordered among themselves.)
 */
#pragma once

#include "maps.h"
#include "store.h"
#include "value.h"

#define CLAIM_TRIES 8

#ifdef LVX_IPV6
#define HAS_OWNERS 1
#else
#define HAS_OWNERS 0
#endif

/* struct flow_set or struct template_set as words. */
struct set {
	__u64 key[WAYS];
	__u64 value[WAYS];
#ifdef LVX_IPV6
	struct address owner[WAYS];
#endif
};

/* A hash of 32 bits as an index below n: any n, no division. */
static __always_inline __u32 scale(__u32 hash, __u32 n)
{
	return (__u64)hash * n >> 32;
}

static __always_inline __u32 first_set(__u64 hash, __u32 sets)
{
	return scale(hash, sets);
}

/* Never the first one again. */
static __always_inline __u32 second_set(__u64 hash, __u32 sets)
{
	__u32 second = scale(hash >> 32, sets);

	return second == first_set(hash, sets) ? second ^ 1 : second;
}

/* Which set a place is in: in a, the first of its hash, or else in the second. */
static __always_inline __u32 set_of_place(const struct set *a, const __u64 *place, __u64 hash,
					  __u32 sets)
{
	__u64 offset = (const char *)place - (const char *)a;

	return offset < sizeof(*a) ? first_set(hash, sets) : second_set(hash, sets);
}

/* offset if x is 0, else 0, without a branch (or offset, if x has bit 63). */
static __always_inline __u64 if_zero(__u64 x, __u64 offset)
{
	x -= 1;
	asm volatile(""
		     : "+r"(x)); /* or clang sees through it */
	return (__u64)((__s64)x >> 63) & offset;
}

/*
 * Where in a set's keys this one is; anywhere if it is not there, or twice.
 * Without a branch. A sum: the verifier of older kernels (6.1) forgets the
 * bounds of what it ORs.
 */
static __always_inline __u64 set_offset_of(struct set *set, __u64 key)
{
	__u64 offset = if_zero(READ_ONCE_64(set->key[1]) ^ key, 8) +
		       if_zero(READ_ONCE_64(set->key[2]) ^ key, 16) +
		       if_zero(READ_ONCE_64(set->key[3]) ^ key, 24);

	return offset & 24;
}

static __always_inline int set_has_key(struct set *set, __u64 key)
{
	return set->key[0] == key || set->key[1] == key || set->key[2] == key || set->key[3] == key;
}

/* What a search matches besides the key. */
struct match {
	__u64 mask; /* bits of the value */
	__u64 bits; /* which are these */
	__u64 changeable; /* bits that the owner of a place may change */
	const struct address *owner; /* IPv6: whose it is; the key only names it */
};

/* The addresses of a set of IPv6. */
static __always_inline struct address *owners_of(struct set *set)
{
#ifdef LVX_IPV6
	return set->owner;
#else
	return 0;
#endif
}

/*
 * Find a key in one set: its value, and in *place where that is; 0 if it is
 * not there. Whether the entry has expired is the caller's business.
 */
static __always_inline __u64 set_find(struct set *set, __u64 key, struct match m, __u64 **place)
{
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		__u64 value, again;

		if (READ_ONCE_64(set->key[i]) != key)
			continue;
		value = READ_ONCE_64(set->value[i]);
		if ((value & m.mask) != m.bits)
			continue;
		if (!is_live(value))
			continue;
		if (m.owner && !is_same_address(&owners_of(set)[i], m.owner))
			continue;
		if (READ_ONCE_64(set->key[i]) != key)
			continue;
		again = READ_ONCE_64(set->value[i]);
		if (value != again) {
			/* The owner changed it, or the place changed hands:
			 * only the first leaves key and nonce. */
			if ((value ^ again) & ~m.changeable || !is_live(again) ||
			    READ_ONCE_64(set->key[i]) != key)
				continue;
			value = again;
		}
		*place = &set->value[i];
		return value;
	}
	return 0;
}

/*
 * The same in two sets; in *at the place: its way, with 4 more in the second
 * set. The verifier knows nothing of that number, so that what follows need not
 * be verified for each of eight places.
 */
static __always_inline __u64 set_find_in_both(struct set *a, struct set *b, __u64 key,
					      struct match m, __u32 *at)
{
	__u64 *place = 0;
	__u64 value = set_find(a, key, m, &place);

	if (value && place) {
		*at = (place - a->value) & 3;
		return value;
	}
	value = set_find(b, key, m, &place);
	if (!value || !place)
		return 0;
	*at = ((place - b->value) & 3) + 4;
	return value;
}

/* The place by that number. */
static __always_inline __u64 *place_at(struct set *a, struct set *b, __u32 at)
{
	struct set *set = at & 4 ? b : a;

	return &set->value[at & 3];
}

/* What taking each place of two sets would cost: a class from bit 16 on, below it how young the entry is. */
struct costs {
	__u32 first[WAYS];
	__u32 second[WAYS];
};

#define CLASS_BUSY 15 /* being written, or out of reach */

/* A chosen place: the way in bits 0-1, which set in bit 2, its cost from bit 5. */
#define CHOICE_COST_SHIFT 5
#define CHOICE_CLASS_SHIFT (CHOICE_COST_SHIFT + 16)

static __always_inline __u64 smaller_of(__u64 a, __u64 b)
{
	__s64 difference = a - b;

	asm volatile(""
		     : "+r"(difference));
	return b + (difference & difference >> 63);
}

/* By PROVEN's bit alone: states that are seen both ways count, too. */
static __always_inline __u32 count_proven(struct set *set)
{
	__u32 n = 0;

#pragma unroll
	for (int i = 0; i < WAYS; i++)
		n += READ_ONCE_64(set->value[i]) >> 63;
	return n;
}

/*
 * Choose among the eight places: free ones (cost 0) first, in the first set if
 * it has two of them, else in the emptier set; without a free one the cheapest.
 */
static __always_inline __u64 set_choose(struct set *a, struct set *b, const struct costs *c)
{
	__u32 free_a = 0, free_b = 0;
	__u64 best_a = ~0ULL >> 2, best_b = ~0ULL >> 2;

#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		free_a += (c->first[i] - 1) >> 31;
		free_b += (c->second[i] - 1) >> 31;
		best_a = smaller_of((__u64)c->first[i] << CHOICE_COST_SHIFT | i, best_a);
		best_b = smaller_of((__u64)c->second[i] << CHOICE_COST_SHIFT | 4 | i, best_b);
	}
	/* Under a flood: keep the proven ones spread, so that no SYN meets eight. */
	if (!(free_a | free_b) && best_a >> CHOICE_CLASS_SHIFT == best_b >> CHOICE_CLASS_SHIFT) {
		__u32 in_a = count_proven(a), in_b = count_proven(b);

		if (in_a != in_b)
			return in_b < in_a ? best_b : best_a;
	}
	/* Equal costs (both free): the first set, unless it is the fuller one. */
	if (free_a < 2 && free_b > free_a)
		return best_b;
	return best_b >> CHOICE_COST_SHIFT < best_a >> CHOICE_COST_SHIFT ? best_b : best_a;
}

static __always_inline int is_out_of_reach(__u64 choice)
{
	return choice >> CHOICE_CLASS_SHIFT >= CLASS_BUSY;
}

/* A place that is about to change hands. */
struct claim {
	__u64 *key;
	__u64 *value;
	__u64 old; /* the value that it has */
	__u64 nonce; /* the next one, in its bits */
	struct address *owner; /* IPv6: where the address goes, unless it is there */
};

static __always_inline struct claim claim_for(struct set *a, struct set *b, __u64 choice)
{
	struct set *set = choice & 4 ? b : a;
	struct claim c = { .key = &set->key[choice & 3], .value = &set->value[choice & 3] };

	if (HAS_OWNERS)
		c.owner = &owners_of(set)[choice & 3];
	c.old = READ_ONCE_64(*c.value);
	return c;
}

static __always_inline __u64 next_nonce(__u64 value)
{
	return (value + (1ULL << NONCE_SHIFT)) & NONCE_MASK;
}

/* 0 if another CPU has the place, or was first. */
static __always_inline int set_claim(struct claim *c)
{
	if (value_code(c->old) == STATE_BUSY)
		return 0;
	c->nonce = next_nonce(c->old);
	return swap_64(c->value, c->old, c->nonce | BUSY) == c->old;
}

/* Write whose the claimed place is. Before its key: who matches that reads it. */
static __always_inline void set_own(struct claim *c, const struct address *owner)
{
	const __u64 *from = (const __u64 *)owner;
	__u64 *to = (__u64 *)c->owner->word;

	if (!from)
		return; /* the verifier asks */
	store_64(&to[0], from[0]);
	store_64(&to[1], from[1]);
}

/* Free a place, unless it has changed. Reports whether it was freed. */
static __always_inline int set_free(__u64 *place, __u64 value)
{
	return swap_64(place, value, next_nonce(value)) == value;
}

/*
 * One insertion per key at a time: without this, two CPUs that see a SYN and
 * its retransmission together would store the flow twice, with two reals.
 * Held for some fifty nanoseconds, never across a call that can fail. 0 if
 * the lock cannot be had.
 */
static __always_inline __u64 *set_lock(__u64 hash)
{
	__u32 index = hash >> 40 & (LOCKS - 1);
	__u64 *lock = bpf_map_lookup_elem(&locks, &index);

	if (!lock)
		return 0;
#pragma unroll
	for (int i = 0; i < 32; i++) {
		if (swap_64(lock, 0, 1) == 0)
			return lock;
	}
	return 0;
}

static __always_inline void set_unlock(__u64 *lock)
{
	store_64(lock, 0);
}
