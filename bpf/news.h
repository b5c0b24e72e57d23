/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * News for peer directors: the packet path notes which sets of a table have
 * changed, where it writes them anyway, and connection sync looks there. A
 * note may be lost or needless: the sweeper's pass over the whole table is
 * what makes the peers complete.
 */
#pragma once

#include "config.h"
#include "maps.h"
#include "set.h"
#include "store.h"

static __always_inline void note_set(void *news, __u32 set)
{
	__u32 at = set / NEWS_LINE_SETS;
	struct news_line *line = bpf_map_lookup_elem(news, &at);

	if (line)
		store_8(&line->of_set[set % NEWS_LINE_SETS], 1);
}

/* Which of its two sets an entry is in is not known here, so both are noted. */
static __always_inline void note_news(const struct settings *s, void *news, __u64 hash, __u32 sets)
{
	if (!(s->flags & SETTING_NEWS))
		return;
	note_set(news, first_set(hash, sets));
	note_set(news, second_set(hash, sets));
}
