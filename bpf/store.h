/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every store to a map. The program that explains a packet is compiled from
 * the same source with LVX_EXPLAIN, and must leave the tables of the live one
 * as they are: there a store does nothing and reports success. What is not
 * written with these functions must not write to a map.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/types.h>

#ifdef LVX_EXPLAIN
#define STORES 0
#else
#define STORES 1
#endif

/* Read a word that others write. */
#define READ_ONCE_64(x) (*(volatile __u64 *)&(x))

static __always_inline void store_64(__u64 *place, __u64 value)
{
	if (STORES)
		*(volatile __u64 *)place = value;
}

static __always_inline void store_32(void *place, __u32 value)
{
	if (STORES)
		*(volatile __u32 *)place = value;
}

static __always_inline void store_16(void *place, __u16 value)
{
	if (STORES)
		*(volatile __u16 *)place = value;
}

static __always_inline void store_8(void *place, __u8 value)
{
	if (STORES)
		*(volatile __u8 *)place = value;
}

/* Compare and swap: the word that was found, which is old on success. */
static __always_inline __u64 swap_64(__u64 *place, __u64 old, __u64 new)
{
	return STORES ? __sync_val_compare_and_swap(place, old, new) : old;
}

static __always_inline void and_64(__u64 *place, __u64 mask)
{
	if (STORES)
		__sync_fetch_and_and(place, mask);
}

/* Returns what was there before. */
static __always_inline __u64 fetch_add_64(__u64 *place, __u64 by)
{
	return STORES ? __sync_fetch_and_add(place, by) : READ_ONCE_64(*place);
}

static __always_inline void add_32(__s32 *place, __s32 by)
{
	if (STORES)
		__sync_fetch_and_add(place, by);
}

/* For words that only this CPU writes. */
static __always_inline void add_own_64(__u64 *place, __u64 by)
{
	if (STORES)
		*place += by;
}
