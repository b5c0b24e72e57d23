/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting. Per-CPU arrays: no atomics, no shared lines. */
#pragma once

#include "config.h"
#include "maps.h"
#include "store.h"

static __always_inline void count_verdict(__u32 verdict)
{
	__u64 cpu = bpf_get_smp_processor_id();

	barrier_var(cpu); /* compared as a whole: of a half Linux 6.1 keeps no bound */
	if (cpu < possible_cpus)
		add_own_64(&VALUE_OF(verdicts)[cpu].of[verdict & (COUNTED_VERDICTS - 1)].count, 1);
}

static __always_inline void count_eviction(__u32 kind)
{
	struct tally *t = bpf_map_lookup_elem(&evictions, &kind);

	if (t)
		add_own_64(&t->count, 1);
}

/* A packet of so many bytes (IP length, as IPVS counts) for a real. */
static __always_inline void count_packet(__u32 real, __u32 bytes, __u32 connections)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &real);

	if (!c)
		return;
	add_own_64(&c->packets, 1);
	add_own_64(&c->bytes, bytes);
	if (connections)
		add_own_64(&c->connections, 1);
}

/* A reply of so many bytes of a real by NAT. */
static __always_inline void count_reply(__u32 real, __u32 bytes)
{
	struct reply_counter *c = bpf_map_lookup_elem(&reply_counters, &real);

	if (!c)
		return;
	add_own_64(&c->packets, 1);
	add_own_64(&c->bytes, bytes);
}

/* ActiveConn and InActConn of ipvsadm. */
static __always_inline int is_active(__u32 state)
{
	return state == STATE_SYN_RECV || state == STATE_ESTABLISHED;
}

/*
 * A share of a real's connections. Counting is spread over shares by CPUs: two CPUs
 * that open connections of one real would else take its line from each other with
 * each. A real whose counts decide something here has the first share alone.
 */
static __always_inline struct share *share_of(__u32 real, __u32 part)
{
	__u32 at = (real & ~(SHARES - 1)) | (part & (SHARES - 1));
	struct share_line *line = bpf_map_lookup_elem(&shares, &at);

	return line ? &line->of[real & (SHARES - 1)] : 0;
}

/* The share that this CPU counts in, and the thresholds. One place on the stack for both keys. */
static __always_inline struct share *own_share(__u32 real, struct load **l)
{
	__u32 at = real;
	struct share_line *line;

	*l = bpf_map_lookup_elem(&loads, &at);
	if (!*l)
		return 0;
	at = (real & ~(SHARES - 1)) | (bpf_get_smp_processor_id() & (*l)->spread & (SHARES - 1));
	line = bpf_map_lookup_elem(&shares, &at);
	return line ? &line->of[real & (SHARES - 1)] : 0;
}

/*
 * Whether a real gets no new connections because of those it has
 * (IP_VS_DEST_F_OVERLOAD). The kernel takes the mark away at an unbind. Only a
 * new connection raises the number again: to look before one is chosen and
 * before one is added comes to the same.
 */
static __always_inline int is_overloaded(struct load *l, const struct share *s)
{
	if (!l->upper || !l->is_overloaded)
		return 0;
	if ((__s64)s->active + s->inactive >= l->lower)
		return 1;
	store_32(&l->is_overloaded, 0);
	return 0;
}

static __always_inline void load_add(__u32 real, __u32 state, __s32 by)
{
	struct load *l;
	struct share *s = own_share(real, &l);

	if (s)
		add_32(is_active(state) ? &s->active : &s->inactive, by);
}

/*
 * One more connection of a real (ip_vs_bind_dest). The count first: who reads the
 * line before it writes fetches it twice from the CPU that wrote it last.
 */
static __always_inline void load_open(__u32 real, __u32 state)
{
	struct load *l;
	struct share *s = own_share(real, &l);
	__s64 before;

	if (!s)
		return;
	add_32(is_active(state) ? &s->active : &s->inactive, 1);
	if (!l->upper)
		return;
	before = (__s64)s->active + s->inactive - 1;
	if (l->is_overloaded && before < l->lower)
		store_32(&l->is_overloaded, 0);
	if (before + 1 >= l->upper)
		store_32(&l->is_overloaded, 1);
}

static __always_inline void load_move(__u32 real, __u32 from, __u32 to)
{
	struct load *l;
	struct share *s;
	__s32 by;

	if (is_active(from) == is_active(to))
		return;
	s = own_share(real, &l);
	if (!s)
		return;
	by = is_active(to) ? 1 : -1;
	add_32(&s->active, by);
	add_32(&s->inactive, -by);
}
