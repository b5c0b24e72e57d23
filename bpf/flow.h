/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: which real a connection belongs to.
 *
 * Sets of four flows, each set one cache line; a flow lives in one of two
 * sets that its hash names. A hit in the first set costs one cache miss; a
 * kernel hash map costs two and a half. The table is its own policy: expiry
 * is a comparison, and a new flow takes the cheapest of eight places, so none
 * is refused and a half-open flow never costs a proven one its place.
 *
 * Two CPUs may meet in a set. A place changes hands in three steps: claim it
 * (compare-and-swap its value to STATE_BUSY with the next nonce), write the
 * key, write the value. A reader that has matched a key reads value, key,
 * value: if anything but the time stamp differs, the place is changing hands
 * and it looks again. (This order is enough on x86, whose loads and stores
 * are not reordered among themselves.)
 */
#pragma once

#include "config.h"
#include "maps.h"
#include "stats.h"

/* struct flow_value as a word. */
#define SEEN_MASK 0xffffULL
#define PORT_SHIFT 16
#define REAL_SHIFT 32
#define REAL_MASK 0xfffffULL
#define GENERATION_SHIFT 52
#define NONCE_SHIFT 56
#define STATE_SHIFT 60
#define STATE_MASK (7ULL << STATE_SHIFT)
#define PROVEN (1ULL << 63)
#define IDENTITY (~SEEN_MASK) /* what must not change under a reader */

#define CLAIM_TRIES 8

static __always_inline __u32 value_state(__u64 v)
{
	return (v >> STATE_SHIFT) & 7;
}

static __always_inline __u32 value_real(__u64 v)
{
	return (v >> REAL_SHIFT) & REAL_MASK;
}

static __always_inline __u32 value_generation(__u64 v)
{
	return (v >> GENERATION_SHIFT) & 15;
}

static __always_inline __be16 value_port(__u64 v)
{
	return (v >> PORT_SHIFT) & 0xffff;
}

static __always_inline __u64 flow_value(__be16 port, __u32 real, __u32 generation, __u32 state)
{
	return (__u64)port << PORT_SHIFT | (__u64)(real & REAL_MASK) << REAL_SHIFT |
	       (__u64)(generation & 15) << GENERATION_SHIFT | (__u64)state << STATE_SHIFT;
}

static __always_inline __u64 flow_key(__be32 client, __be16 port, __u16 vip)
{
	return client | (__u64)port << 32 | (__u64)vip << 48;
}

/* The coarse clock: ticks of about a second, 0.2 ns to read. */
static __always_inline __u64 clock_now(const struct settings *s)
{
	return (bpf_jiffies64() >> tick_shift) + s->clock;
}

/*
 * Of what is in the packet, not of the key: the flow's line need not wait for
 * the VIP's, which among thousands of VIPs is not near either.
 *
 * Keyed, so that nobody outside can choose clients that meet in one set. VIP
 * and port enter after the first multiplication: an attacker who knew which
 * clients collide would have to know the seed.
 */
static __always_inline __u64 flow_hash(const struct settings *s, __be32 client, __be16 client_port,
				       __be32 vip, __be16 port)
{
	__u64 h = ((client | (__u64)client_port << 32) ^ s->seed[0]) * (s->seed[1] | 1);

	h ^= h >> 32;
	h = (h ^ (vip | (__u64)port << 32)) * (s->seed[2] | 1);
	return h ^ h >> 29;
}

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

/* Read a word that others write. */
#define READ_ONCE_64(x) (*(volatile __u64 *)&(x))
#define WRITE_ONCE_64(x, v) (*(volatile __u64 *)&(x) = (v))

/* The ways of a set as words. */
struct flow_words {
	__u64 key[WAYS];
	__u64 value[WAYS];
};

/*
 * Look for a flow in one set. Returns its value and where it is, or 0.
 * Port, state and key are matched; expiry is the caller's business.
 */
static __always_inline __u64 find_in(struct flow_words *set, __u64 key, __be16 port, __u64 **place)
{
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		__u64 value, again;

		if (READ_ONCE_64(set->key[i]) != key)
			continue;
		value = READ_ONCE_64(set->value[i]);
		if (value_port(value) != port)
			continue;
		if (value_state(value) == STATE_EMPTY || value_state(value) == STATE_BUSY)
			continue;
		if (READ_ONCE_64(set->key[i]) != key)
			continue;
		again = READ_ONCE_64(set->value[i]);
		if ((value ^ again) & IDENTITY) {
			/* The owner changed its state, or the place changed
			 * hands: only the first leaves key and nonce. */
			if (((value ^ again) & ~(STATE_MASK | PROVEN | SEEN_MASK)) ||
			    value_state(again) == STATE_BUSY || READ_ONCE_64(set->key[i]) != key)
				continue;
			value = again;
		}
		*place = &set->value[i];
		return value;
	}
	return 0;
}

static __always_inline struct flow_words *flow_set(__u32 index)
{
	return bpf_map_lookup_elem(&flows, &index);
}

/* Ticks since the flow was last seen, modulo 2^16. */
static __always_inline __u32 flow_age(__u64 value, __u64 now)
{
	return (now - value) & SEEN_MASK;
}

static __always_inline int flow_expired(const struct settings *s, __u64 value, __u64 now)
{
	return flow_age(value, now) > s->timeout[value_state(value) & 7];
}

/*
 * Classes of places by the top four bits of their value (proven, state): what
 * a new flow may take, cheapest first. 0 is free, 15 is being written.
 * CLOSE, TIME_WAIT and SYN_RECV lose nothing or next to nothing (1), nor does
 * a single UDP packet; an established flow that was never seen again may be
 * a spoofed SYN and ACK (2); a proven one goes last (3), in FIN_WAIT too: the
 * reply may still be on its way.
 */
#define CLASS_BUSY 15
#define CLASSES 0xf3113310f1112210ULL
/* from the top: proven busy, udp, close, time_wait, fin_wait, established, syn_recv, empty; unproven the same */

/*
 * What it would cost to take a place: 0 for a free or expired one, else its
 * class in the high bits and its youth in the low ones. Arithmetic instead of
 * branches: sixteen evaluations are one verifier path, and one prediction.
 */
static __always_inline __u32 place_cost(const struct settings *s, __u64 value, __u64 now)
{
	__u32 kind = value >> STATE_SHIFT;
	__u32 class = CLASSES >> (kind * 4) & 15;
	__u32 age = flow_age(value, now);
	__s32 left = (__s32)s->timeout[kind & 7] - (__s32)age;
	__u32 cost = class << 16 | (SEEN_MASK - age);

	asm volatile(""
		     : "+r"(left)); /* or clang makes branches of it */
	return cost * ((class + 15) >> 4) & ~(__u32)(left >> 31);
}

static __always_inline __u64 smaller(__u64 a, __u64 b)
{
	__s64 difference = a - b;

	asm volatile(""
		     : "+r"(difference));
	return b + (difference & difference >> 63);
}

static __always_inline __u32 proven_in(struct flow_words *set)
{
	__u32 n = 0;

#pragma unroll
	for (int i = 0; i < WAYS; i++)
		n += READ_ONCE_64(set->value[i]) >> 63;
	return n;
}

/*
 * Choose among the eight places: free ones first, in the first set if it has
 * two of them, else in the emptier set; without a free one the cheapest.
 * Returns the way in bits 0-1, which set in bit 2, and the cost from bit 5.
 * A global function: the verifier looks at it once, not once per attempt.
 */
__attribute__((noinline)) __u64 choose_place(struct settings *s, struct flow_words *a,
					     struct flow_words *b, __u64 now)
{
	__u32 free_a = 0, free_b = 0;
	__u64 best_a = ~0ULL >> 2, best_b = ~0ULL >> 2;

	if (!s || !a || !b)
		return ~0ULL;
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		__u32 cost_a = place_cost(s, READ_ONCE_64(a->value[i]), now);
		__u32 cost_b = place_cost(s, READ_ONCE_64(b->value[i]), now);

		free_a += (cost_a - 1) >> 31;
		free_b += (cost_b - 1) >> 31;
		best_a = smaller((__u64)cost_a << 5 | i, best_a);
		best_b = smaller((__u64)cost_b << 5 | 4 | i, best_b);
	}
	/* Under a flood: keep the proven ones spread, so that no SYN meets eight. */
	if (!(free_a | free_b) && best_a >> 21 == best_b >> 21) {
		__u32 in_a = proven_in(a), in_b = proven_in(b);

		if (in_a != in_b)
			return in_b < in_a ? best_b : best_a;
	}
	/* Equal costs (both free): the first set, unless it is the fuller one. */
	if (free_a < 2 && free_b > free_a)
		return best_b;
	return (best_b >> 5) < (best_a >> 5) ? best_b : best_a;
}

/*
 * One insertion per key at a time: without this, two CPUs that see a SYN and
 * its retransmission together would store the flow twice, with two reals.
 * Held for some fifty nanoseconds, never across a call that can fail.
 */
static __always_inline __u64 *lock_key(__u64 hash)
{
	__u32 index = hash >> 40 & (LOCKS - 1);
	__u64 *lock = bpf_map_lookup_elem(&locks, &index);

	if (!lock)
		return 0;
#pragma unroll
	for (int i = 0; i < 32; i++) {
		if (__sync_val_compare_and_swap(lock, 0, 1) == 0)
			return lock;
	}
	return 0;
}

static __always_inline void unlock_key(__u64 *lock)
{
	WRITE_ONCE_64(*lock, 0);
}

/* The books of a flow that loses its place. */
static __always_inline void book_eviction(const struct settings *s, __u64 value, __u64 now)
{
	__u32 state = value_state(value);
	__u32 slot = value_real(value);
	struct real *real;
	__u32 kind;

	if (state == STATE_EMPTY)
		return;
	real = bpf_map_lookup_elem(&reals, &slot);
	if (real && real->generation == value_generation(value))
		load_add(slot, state, -1);
	if (flow_expired(s, value, now))
		kind = EVICTED_EXPIRED;
	else if (value & PROVEN)
		kind = EVICTED_ESTABLISHED;
	else if (state == STATE_ESTABLISHED || state == STATE_FIN_WAIT)
		kind = EVICTED_UNPROVEN;
	else
		kind = EVICTED_HALF_OPEN;
	count_eviction(kind);
}

/* What flow_insert is asked for, and what it answers. */
struct insertion {
	__u64 key;
	__u64 hash;
	__u64 value; /* in: wanted; out: in force, another CPU may have been first */
};

/*
 * Store a new flow. 0 if a value is in force, 1 if no place could be claimed
 * (both sets are being written by other CPUs: the packet is to be dropped, a
 * rr service must not send it anywhere unstored).
 */
__attribute__((noinline)) int flow_insert(struct insertion *in)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	struct flow_words *a, *b, *set;
	__u64 *lock, *place = 0;
	__u64 value, now;
	int result = 1;

	if (!s || !in)
		return 1;
	a = flow_set(first_set(in->hash, flow_sets));
	b = flow_set(second_set(in->hash, flow_sets));
	if (!a || !b)
		return 1;
	now = clock_now(s);
	lock = lock_key(in->hash);
	if (!lock)
		return 1;
	value = find_in(a, in->key, value_port(in->value), &place);
	if (!value)
		value = find_in(b, in->key, value_port(in->value), &place);
	if (value && !flow_expired(s, value, now)) {
		in->value = value;
		result = 0;
		goto out;
	}
	for (int i = 0; i < CLAIM_TRIES; i++) {
		__u64 choice = choose_place(s, a, b, now);
		__u64 nonce, old;
		__u32 way = choice & 3;

		set = choice & 4 ? b : a;
		if (choice >> 21 == CLASS_BUSY)
			continue;
		if (value) /* its own, expired: never two places for one key */
			old = value;
		else {
			place = &set->value[way];
			old = READ_ONCE_64(*place);
		}
		if (value_state(old) == STATE_BUSY)
			continue;
		nonce = ((old >> NONCE_SHIFT) + 1) & 15;
		if (__sync_val_compare_and_swap(place, old,
						(nonce << NONCE_SHIFT) | STATE_MASK) != old) {
			value = 0;
			continue;
		}
		book_eviction(s, old, now);
		if (!value)
			WRITE_ONCE_64(set->key[way], in->key);
		in->value |= nonce << NONCE_SHIFT | (now & SEEN_MASK);
		load_add(value_real(in->value), value_state(in->value), 1);
		WRITE_ONCE_64(*place, in->value);
		result = 0;
		break;
	}
out:
	unlock_key(lock);
	return result;
}

/*
 * The one-way TCP table of ip_vs_proto_tcp.c as nibbles: the next state by
 * the present one, a word for each kind of packet (RST before SYN before FIN
 * before ACK, as tcp_state_idx has it).
 */
#define ON_SYN 0x76111211u
#define ON_FIN 0x76543345u
#define ON_ACK 0x76543222u
#define ON_RST 0x76555515u
#define ON_NONE 0x76555555u

static __always_inline __u32 next_state(__u32 state, __u8 flags)
{
	__u32 table = ON_NONE;

	if (flags & TCP_ACK)
		table = ON_ACK;
	if (flags & TCP_FIN)
		table = ON_FIN;
	if (flags & TCP_SYN)
		table = ON_SYN;
	if (flags & TCP_RST)
		table = ON_RST;
	return table >> (state * 4) & 7;
}

/* Is a packet of a live flow the start of a new one? (is_new_conn_expected) */
static __always_inline int starts_anew(__u32 state)
{
	return state == STATE_TIME_WAIT || state == STATE_CLOSE;
}

/*
 * Note a packet of a live flow. Returns the state it is in now, with
 * PROVEN's bit in bit 31 if this packet made it proven. The line is written
 * once a tick, and when something changed.
 */
static __always_inline void flow_seen(__u64 *place, __u64 value, __u32 state, __u64 now)
{
	__u64 wanted;

	if (value_state(value) == state &&
	    (value & PROVEN || (state != STATE_ESTABLISHED && state != STATE_UDP))) {
		if ((value & SEEN_MASK) != (now & SEEN_MASK))
			*(volatile __u16 *)place = now;
		return;
	}
#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u64 found;

		wanted = (value & ~(STATE_MASK | SEEN_MASK)) | (__u64)state << STATE_SHIFT |
			 (now & SEEN_MASK);
		if (value_state(value) == state)
			wanted |= PROVEN;
		found = __sync_val_compare_and_swap(place, value, wanted);
		if (found == value) {
			load_move(value_real(value), value_state(value), state);
			return;
		}
		/* Only the time stamp may have changed; else leave it be. */
		if ((found ^ value) & IDENTITY)
			return;
		value = found;
	}
}

/* End a flow: its place is free, its real one connection lighter. */
static __always_inline void flow_end(__u64 *place, __u64 value)
{
	__u64 nonce = (value >> NONCE_SHIFT) + 1 & 15;

	if (__sync_val_compare_and_swap(place, value, nonce << NONCE_SHIFT) == value)
		load_add(value_real(value), value_state(value), -1);
}
