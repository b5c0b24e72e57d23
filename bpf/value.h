/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The words of flows, templates and rows: where each field of struct flow_value,
 * struct template_value and struct row_value lies when the structure is taken for a number. State
 * and nonce lie at the same place in flows and templates, so that one table
 * serves both (set.h).
 */
#pragma once

#include "types.h"

/* Of both. */
#define NONCE_SHIFT 56
#define NONCE_MASK (15ULL << NONCE_SHIFT)
#define STATE_SHIFT 60
#define STATE_MASK (15ULL << STATE_SHIFT)
#define BUSY ((__u64)STATE_BUSY << STATE_SHIFT)
#define PROVEN (1ULL << 63) /* where it means something: see state_bits */
#define REAL_BITS 0xfffffULL

/* struct flow_value */
#define SEEN_MASK 0xffffULL
#define PORT_SHIFT 16
#define PORT_MASK (0xffffULL << PORT_SHIFT)
#define REAL_SHIFT 32
#define GENERATION_SHIFT 52
#define IDENTITY (~SEEN_MASK) /* what must not change under a reader */

/* What identifies a flow in its table, and its value. */
struct flow_words {
	__u64 key;
	__u64 hash;
	__u64 value;
};

/* struct template_value */
#define TEMPLATE_EXPIRES 0xffffffULL
#define TEMPLATE_REAL_SHIFT 24
#define TEMPLATE_GENERATION_SHIFT 44
#define TEMPLATE_ASSURED (1ULL << 48)
#define TEMPLATE_RENEWED (1ULL << 49)
#define TEMPLATE_LIVE (1ULL << STATE_SHIFT)
#define TEMPLATE_RANK (TEMPLATE_ASSURED | PROVEN)

/* struct row_value */
#define ROW_SETTLED_SHIFT 20
#define ROW_GENERATION_SHIFT 40
#define ROW_STATE_SHIFT 60
#define ROW_BITS 0xfffffULL

static __always_inline __u32 row_real(__u64 row)
{
	return row & ROW_BITS;
}

static __always_inline __u32 row_settled(__u64 row)
{
	return row >> ROW_SETTLED_SHIFT & ROW_BITS;
}

static __always_inline __u32 row_generation(__u64 row)
{
	return row >> ROW_GENERATION_SHIFT & 15;
}

static __always_inline __u32 row_state(__u64 row)
{
	return row >> ROW_STATE_SHIFT & 3;
}

/* The real that has the row's connections which no flow tells of. */
static __always_inline __u32 row_owner(__u64 row)
{
	return row_settled(row) != ROW_NONE ? row_settled(row) : row_real(row);
}

/* enum flow_state */
static __always_inline __u32 value_code(__u64 v)
{
	return v >> STATE_SHIFT;
}

/* The same without PROVEN, of a connection that is seen one way. */
static __always_inline __u32 value_state(__u64 v)
{
	return v >> STATE_SHIFT & 7;
}

/* Of flows and templates: the place is neither free nor being written. */
static __always_inline int is_live(__u64 v)
{
	return value_code(v) != STATE_EMPTY && value_code(v) != STATE_BUSY;
}

#define PROVABLE (1 << STATE_ESTABLISHED | 1 << STATE_FIN_WAIT | 1 << STATE_UDP)

/* PROVEN if the flow is, else 0: states that are seen both ways have the bit, too. */
static __always_inline __u64 proven_of(__u64 v)
{
	return PROVABLE >> value_state(v) & 1 ? v & PROVEN : 0;
}

/*
 * enum flow_state without PROVEN, of a connection that is seen both ways. The
 * states that only such a connection has count like those of value_state:
 * active or not.
 */
static __always_inline __u32 value_two_way_state(__u64 v)
{
	return PROVABLE >> value_state(v) & 1 ? value_state(v) : value_code(v);
}

/* The bits of a state, with PROVEN if it is given (PROVEN or 0) and means something there. */
static __always_inline __u64 state_bits(__u32 state, __u64 proven)
{
	return (__u64)state << STATE_SHIFT | (PROVABLE >> state & 1 ? proven : 0);
}

static __always_inline __u32 real_generation(const struct real *real)
{
	return real->generation & 15;
}

/* enum forward_method */
static __always_inline __u32 real_method(const struct real *real)
{
	return real->generation >> 4 & ~FORWARD_TAGGED;
}

static __always_inline __u32 value_real(__u64 v)
{
	return v >> REAL_SHIFT & REAL_BITS;
}

static __always_inline __u32 value_generation(__u64 v)
{
	return v >> GENERATION_SHIFT & 15;
}

static __always_inline __be16 value_port(__u64 v)
{
	return v >> PORT_SHIFT & 0xffff;
}

static __always_inline __u64 flow_value(__be16 port, __u32 real, __u32 generation, __u32 state)
{
	return (__u64)port << PORT_SHIFT | (__u64)(real & REAL_BITS) << REAL_SHIFT |
	       (__u64)(generation & 15) << GENERATION_SHIFT | (__u64)state << STATE_SHIFT;
}

/*
 * Ticks since the flow was last seen, modulo 2^16. Read the clock behind the
 * value: another CPU may have seen the flow in a tick that begins in between,
 * and the flow would be 65,535 ticks old.
 */
static __always_inline __u32 flow_age(__u64 value, __u64 now)
{
	return (now - value) & SEEN_MASK;
}

static __always_inline int flow_is_expired(const struct settings *s, __u64 value, __u64 now)
{
	return flow_age(value, now) > s->timeout[value_code(value)];
}

static __always_inline __u32 template_real(__u64 v)
{
	return v >> TEMPLATE_REAL_SHIFT & REAL_BITS;
}

static __always_inline __u32 template_generation(__u64 v)
{
	return v >> TEMPLATE_GENERATION_SHIFT & 15;
}

static __always_inline __u64 template_value(__u32 real, __u32 generation, __u64 rank)
{
	return (__u64)(real & REAL_BITS) << TEMPLATE_REAL_SHIFT |
	       (__u64)(generation & 15) << TEMPLATE_GENERATION_SHIFT | rank;
}

/* Ticks that are left, negative when it has expired; 24-bit arithmetic. */
static __always_inline __s32 template_left(__u64 v, __u64 now)
{
	return (__s32)(((__u32)v - (__u32)now) << 8) >> 8;
}

/* How much a template is worth: 0 nothing yet, 1 assured, 2 proven. */
static __always_inline __u32 template_rank(__u64 v)
{
	return !!(v & TEMPLATE_ASSURED) + !!(v & PROVEN);
}

static __always_inline int is_same_address(const struct address *a, const struct address *b)
{
	const __u64 *x = (const __u64 *)a->word, *y = (const __u64 *)b->word;

	return x[0] == y[0] && x[1] == y[1];
}
