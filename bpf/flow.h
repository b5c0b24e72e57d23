/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: which real a connection belongs to. Here is what a flow's
 * place is worth to others, how it is stored, kept and ended; the table itself
 * is in set.h.
 */
#pragma once

#include "config.h"
#include "maps.h"
#include "news.h"
#include "set.h"
#include "stats.h"

/* The coarse clock: ticks of about a second, 0.2 ns to read. */
static __always_inline __u64 clock_now(const struct settings *s)
{
	return (bpf_jiffies64() >> tick_shift) + s->clock;
}

/*
 * The set of a number in a table in pieces: number / PIECE_SETS and number %
 * PIECE_SETS, as a fixed-point number of 40 bits, so that the verifier knows the
 * bound of the second.
 */
static __always_inline struct set *set_in_pieces(void *pieces, __u32 *number)
{
	__u64 at = (__u64)*number * ((1ULL << 40) / PIECE_SETS + 1) + (1 << 8);
	__u64 within = (__u32)(at >> 8);
	void *sets;

	*number = at >> 40; /* one place on the stack for all keys: there are few */
	sets = bpf_map_lookup_elem(pieces, number);
	if (!sets)
		return 0;
	within = within * PIECE_SETS >> 32;
	barrier_var(within);
	*number = 0;
	sets = bpf_map_lookup_elem(sets, number);
	return sets ? sets + (piece_pad & 63) + within * SET_BYTES : 0;
}

static __always_inline int is_in_pieces(__u32 sets)
{
	return sets & IN_PIECES;
}

/* How many sets the flow table has. */
static __always_inline __u32 count_flow_sets(void)
{
	return flow_sets & ~IN_PIECES;
}

/*
 * A set of a hash: which of the two is a constant. Below the threshold of pieces the
 * program is one that knows none, and masks nothing.
 */
static __always_inline struct set *flow_set(__u64 hash, int is_second)
{
	__u32 sets = flow_sets, number;

	if (__builtin_expect(is_in_pieces(sets), 0)) {
		sets &= ~IN_PIECES;
		number = is_second ? second_set(hash, sets) : first_set(hash, sets);
		return set_in_pieces(&FLOW_PIECES, &number);
	}
	number = is_second ? second_set(hash, sets) : first_set(hash, sets);
	return bpf_map_lookup_elem(&FLOWS, &number);
}

static __always_inline struct set *first_flow_set(__u64 hash)
{
	return flow_set(hash, 0);
}

static __always_inline struct set *second_flow_set(__u64 hash)
{
	return flow_set(hash, 1);
}

static __always_inline struct match flow_match(__be16 port)
{
	struct match m = {
		.mask = PORT_MASK,
		.bits = (__u64)port << PORT_SHIFT,
		.changeable = STATE_MASK | SEEN_MASK,
		.owner = current_client(),
	};

	return m;
}

/*
 * The value of a flow, live or not, 0 if there is none. A global function: it is
 * verified once.
 */
__attribute__((noinline)) __u64 peek_flow(__u64 key, __u64 hash, __u32 port)
{
	struct set *a = first_flow_set(hash);
	struct set *b = second_flow_set(hash);
	__u32 at;

	return a && b ? set_find_in_both(a, b, key, flow_match(port), &at) : 0;
}

/*
 * Classes of places by the state's code: what a new flow may take, cheapest
 * first. 0 is free, 15 is being written. CLOSE, TIME_WAIT and SYN_RECV lose
 * nothing or next to nothing (1), nor does a single UDP packet; an established
 * flow that was never seen again may be a spoofed SYN and ACK (2); a proven one
 * goes last (3), in FIN_WAIT too: the reply may still be on its way.
 */
#define CLASSES 0x13133310f1112210ULL
/*
 * From the top: syn_ack, proven udp, last_ack, close_wait, proven fin_wait and
 * established, syn_sent, code 8; busy, udp, close, time_wait, fin_wait,
 * established, syn_recv, empty
 */

/*
 * What it would cost to take a flow's place: 0 for a free or expired one, else
 * its class and its youth. Arithmetic instead of branches: eight evaluations
 * are one verifier path, and one prediction. Ages are MOST_AHEAD more than they
 * are: so they are none below 0 where another CPU has seen a flow since this one
 * looked at the clock.
 */
static __always_inline __u32 flow_cost(const struct settings *s, __u64 value, __u64 now)
{
	__u32 kind = value >> STATE_SHIFT;
	__u32 class = CLASSES >> (kind * 4) & 15;
	__u32 age = flow_age(value, now + MOST_AHEAD);
	__s32 left = (__s32)s->timeout[kind] + MOST_AHEAD - (__s32)age;
	__u32 cost = class << 16 | (SEEN_MASK - age);

	asm volatile(""
		     : "+r"(left)); /* or clang makes branches of it */
	return cost * ((class + 15) >> 4) & ~(__u32)(left >> 31);
}

/* The place for a new flow. A global function: it is verified once, not once per attempt. */
__attribute__((noinline)) __u64 choose_flow_place(struct settings *s, struct set *a, struct set *b,
						  __u64 now)
{
	struct costs c;

	if (!s || !a || !b)
		return ~0ULL;
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		c.first[i] = flow_cost(s, READ_ONCE_64(a->value[i]), now);
		c.second[i] = flow_cost(s, READ_ONCE_64(b->value[i]), now);
	}
	return set_choose(a, b, &c);
}

/* Count what loses its place, and take it from the connections of its real. */
static __always_inline void account_eviction(const struct settings *s, __u64 value, __u64 now)
{
	__u32 state = value_state(value);
	__u32 slot = value_real(value);
	struct real *real;
	__u32 kind;

	if (state == STATE_EMPTY)
		return;
	real = bpf_map_lookup_elem(&reals, &slot);
	if (real && real_generation(real) == value_generation(value))
		load_add(slot, state, -1);
	if (flow_is_expired(s, value, now))
		kind = EVICTED_EXPIRED;
	else if (value & PROVEN)
		kind = EVICTED_ESTABLISHED;
	else if (state == STATE_ESTABLISHED || state == STATE_FIN_WAIT)
		kind = EVICTED_UNPROVEN;
	else
		kind = EVICTED_HALF_OPEN;
	count_eviction(kind);
}

/*
 * Whether peers are told of flows in a state. A half-open connection may be
 * made up, and so may a single datagram: UDP's second one is noted with its
 * proof.
 */
static __always_inline int is_shared(__u32 state)
{
	return state != STATE_SYN_RECV && state != STATE_UDP;
}

/*
 * Twins are flows of IPv6 whose clients have one name, and whose keys are equal
 * for it. Their sets are the same ones, so an insertion meets its twin, and the
 * lock of the key is one for both: neither is proven while the other is there.
 * What is not proven goes the long way, which compares addresses.
 */
static __always_inline __u64 is_other_flow(struct set *set, int way, __u64 key, __be16 port)
{
	__u64 value = READ_ONCE_64(set->value[way]);
	__u32 code = value_code(value);

	/* What has ended has left its key, and a port that is 0. */
	return (READ_ONCE_64(set->key[way]) ^ key) | ((value ^ (__u64)port << PORT_SHIFT) & PORT_MASK) |
	       if_zero(code ^ STATE_EMPTY, 1) | if_zero(code ^ STATE_BUSY, 1);
}

/* How many flows have this key and this port of the VIP. */
static __always_inline __u32 count_twins(struct set *a, struct set *b, __u64 key, __be16 port)
{
	__u32 n = 0;

#pragma unroll
	for (int i = 0; i < WAYS; i++)
		n += if_zero(is_other_flow(a, i, key, port), 1) + if_zero(is_other_flow(b, i, key, port), 1);
	return n;
}

/*
 * Take PROVEN from the flows of this key and port. A place that changes hands
 * meanwhile may lose it, too: its next packet proves it anew. A global function:
 * verified once.
 */
__attribute__((noinline)) int disprove_twins(struct set *a, struct set *b, __u64 key, __u32 port)
{
	if (!a || !b)
		return 0;
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		if (!is_other_flow(a, i, key, port))
			and_64(&a->value[i], ~PROVEN);
		if (!is_other_flow(b, i, key, port))
			and_64(&b->value[i], ~PROVEN);
	}
	return 0;
}

/*
 * Write a new flow into a place, the cheapest one below a class: 0 if that was
 * done, and *place is where. Expired is the value of the same flow in *place, or
 * 0: one key never has two places. The key's lock is held.
 */
static __always_inline int flow_store(struct settings *s, struct set *a, struct set *b,
				      struct flow_words *in, __u64 **place, __u64 expired,
				      __u64 now, __u32 class)
{
	for (int i = 0; i < CLAIM_TRIES; i++) {
		__u64 choice = choose_flow_place(s, a, b, now);
		struct claim c;

		if (choice >> CHOICE_CLASS_SHIFT >= class)
			continue;
		c = claim_for(a, b, choice);
		if (expired) {
			c.key = *place - WAYS;
			c.value = *place;
			c.old = expired;
			c.owner = 0; /* it is there */
		}
		if (!set_claim(&c)) {
			expired = 0;
			continue;
		}
		account_eviction(s, c.old, now);
		if (c.owner)
			set_own(&c, current_client());
		store_64(c.key, in->key);
		in->value |= c.nonce;
		load_open(value_real(in->value), value_state(in->value));
		store_64(c.value, in->value);
		*place = c.value;
		return 0;
	}
	return 1;
}

/*
 * Store a new flow in one of its sets. 0 if in->value is in force, which may be that of
 * another CPU that was first; 1 if no place could be claimed (both sets are being
 * written by other CPUs: the packet is to be dropped, a rr service must not send it
 * anywhere unstored).
 */
__attribute__((noinline)) int flow_insert(struct flow_words *in, struct set *a, struct set *b)
{
	__u32 at = 0;
	struct settings *s = get_settings();
	__u64 *lock, *place = 0;
	__u64 value, now;
	int result = 1;

	if (!in || !a || !b)
		return 1;
	if (!STORES)
		return 0; /* and the flow that this packet has ended is still there */
	lock = set_lock(in->hash);
	if (!lock)
		return 1;
	value = set_find_in_both(a, b, in->key, flow_match(value_port(in->value)), &at);
	place = place_at(a, b, at);
	now = clock_now(s);
	if (value && !flow_is_expired(s, value, now)) {
		in->value = value;
		result = 0;
		goto out;
	}
	in->value |= now & SEEN_MASK;
	if (HAS_OWNERS)
		disprove_twins(a, b, in->key, value_port(in->value));
	result = flow_store(s, a, b, in, &place, value, now, CLASS_BUSY);
	if (!result && place && is_shared(value_state(in->value)))
		note_news(s, &FLOW_NEWS, a, place, in->hash, count_flow_sets());
out:
	set_unlock(lock);
	return result;
}

/*
 * Make a flow of IPv6 proven by a packet of now, unless it has a twin. Reports
 * whether it is. A global function: it is verified once.
 */
__attribute__((noinline)) int flow_prove(const struct flow_words *in, struct set *a, struct set *b,
					 __u64 now)
{
	__u64 *lock, found, value;
	__u32 at = 0;
	int result = 0;

	if (!STORES || !in || !a || !b)
		return 0;
	value = in->value;
	lock = set_lock(in->hash);
	if (!lock)
		return 0;
	found = set_find_in_both(a, b, in->key, flow_match(value_port(value)), &at);
	if (found && !((found ^ value) & IDENTITY) &&
	    count_twins(a, b, in->key, value_port(value)) == 1) {
		value = (value & ~SEEN_MASK) | (now & SEEN_MASK) | PROVEN;
		result = swap_64(place_at(a, b, at), found, value) == found;
	}
	set_unlock(lock);
	return result;
}

/*
 * Note a packet of a live flow at a place of its sets, which puts it into this state,
 * and makes it proven if it was in the state before. The line is written once a
 * tick, and when something changed. A global function: it is verified once.
 */
__attribute__((noinline)) int flow_touch(const struct flow_words *in, struct set *a, struct set *b,
					 __u64 *place, __u32 state)
{
	struct settings *s = get_settings();
	__u64 value, wanted, now;

	barrier_var(b); /* IPv4 does not need it, and would leave it out of its calls */
	if (!in || !a || !b || !place)
		return 0;
	value = in->value;
	now = clock_now(s);
	if (value_two_way_state(value) == state &&
	    (value & PROVEN || (state != STATE_ESTABLISHED && state != STATE_UDP))) {
		if ((value & SEEN_MASK) != (now & SEEN_MASK))
			store_16(place, now);
		return 0;
	}
	if (HAS_OWNERS && value_state(value) == state) {
		if (flow_prove(in, a, b, now))
			note_news(s, &FLOW_NEWS, a, place, in->hash, count_flow_sets());
		else if ((value & SEEN_MASK) != (now & SEEN_MASK))
			store_16(place, now);
		return 0;
	}
#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u64 found;

		wanted = (value & ~(STATE_MASK | SEEN_MASK)) | (now & SEEN_MASK) |
			 state_bits(state, value_two_way_state(value) == state ? PROVEN : proven_of(value));
		found = swap_64(place, value, wanted);
		if (found == value) {
			load_move(value_real(value), value_state(value), state & 7);
			if (wanted & PROVEN || is_shared(state))
				note_news(s, &FLOW_NEWS, a, place, in->hash, count_flow_sets());
			return 0;
		}
		/* Only the time stamp may have changed; else leave it be. */
		if ((found ^ value) & IDENTITY)
			return 0;
		value = found;
	}
	return 0;
}

/* What a place is worth that nothing from elsewhere may take: a proven flow's (CLASSES). */
#define CLASS_PROVEN 3

/*
 * Whether a peer's word is older than what is known of a flow. Peers say how many
 * ticks ago the last packet was: what was told in the tick before counts as of the
 * tick in which it came, and what followed it at once as of the one before. So an
 * end, a proof and a connection behind an end may be a tick old.
 */
static __always_inline int is_older_word(const struct absorption *in, __u64 value, __u64 now,
					 int is_same)
{
	__u32 here = flow_age(value, now), there = flow_age(in->value, now);
	__u32 state = value_state(value);
	int goes_on = is_same ? !in->replaces || proven_of(in->value) & ~value :
				state > STATE_ESTABLISHED && state <= STATE_CLOSE;

	return here + (goes_on ? 1 : 0) < there;
}

/* A peer's word on a flow that is known here: newer news win. */
static __always_inline __u32 flow_update(struct absorption *in, __u64 *place, __u64 value,
					 __u64 now)
{
	__u64 fields = SEEN_MASK | STATE_MASK;
	int is_same = value_real(value) == value_real(in->value) &&
		      value_generation(value) == value_generation(in->value);
	__u32 slot = value_real(value);
	struct real *real = bpf_map_lookup_elem(&reals, &slot);
	__u64 wanted = (value & ~fields) | (in->value & SEEN_MASK) |
		       state_bits(value_two_way_state(in->value), proven_of(in->value) | proven_of(value));

	if (is_older_word(in, value, now, is_same) || (!is_same && !in->replaces))
		return ABSORB_KEPT;
	if (!is_same)
		wanted = in->value | next_nonce(value);
	if (swap_64(place, value, wanted) != value)
		return ABSORB_BUSY;
	in->value = wanted;
	if (real && real_generation(real) == value_generation(value))
		load_add(slot, value_state(value), -1);
	load_open(value_real(wanted), value_state(wanted));
	return ABSORB_CHANGED;
}

/* Store a flow that a peer tells of. It never costs a proven flow its place. */
__attribute__((noinline)) int flow_absorb(struct absorption *in)
{
	struct flow_words new = {};
	__u32 at = 0;
	struct settings *s = get_settings();
	__u64 *lock, *place = 0;
	struct set *a, *b;
	__u64 value, now;

	if (!in)
		return 0;
	a = first_flow_set(in->hash);
	b = second_flow_set(in->hash);
	if (!a || !b)
		return 0;
	lock = set_lock(in->hash);
	if (!lock)
		return 0; /* ABSORB_BUSY, as it was */
	value = set_find_in_both(a, b, in->key, flow_match(value_port(in->value)), &at);
	place = value ? place_at(a, b, at) : 0;
	now = clock_now(s);
	/* Nobody has looked whether a flow with a twin is proven (flow_prove). */
	if (HAS_OWNERS && count_twins(a, b, in->key, value_port(in->value)) > !!value)
		in->value &= ~proven_of(in->value);
	if (value && place && !flow_is_expired(s, value, now)) {
		in->outcome = ABSORB_KEPT;
		if (in->kind != ABSORB_MOVED)
			in->outcome = flow_update(in, place, value, now);
	} else {
		new.key = in->key;
		new.value = in->value;
		if (HAS_OWNERS && STORES)
			disprove_twins(a, b, in->key, value_port(in->value));
		in->outcome = flow_store(s, a, b, &new, &place, value, now, CLASS_PROVEN) ?
				      ABSORB_NO_PLACE :
				      ABSORB_STORED;
		in->value = new.value;
	}
	set_unlock(lock);
	if (!place)
		return 0;
	in->set = set_of_place(a, place, in->hash, count_flow_sets());
	in->way = ((__u64)((const char *)place - (const char *)a) >> 3) & (WAYS - 1);
	return 0;
}

/* End a flow: its place is free, its real has one connection less. */
static __always_inline void flow_end(__u64 *place, __u64 value)
{
	if (set_free(place, value))
		load_add(value_real(value), value_state(value), -1);
}
