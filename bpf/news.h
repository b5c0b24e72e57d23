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

/* Note the set of a place, see set_of_place. */
static __always_inline void note_news(const struct settings *s, void *news, const struct set *a,
				      const __u64 *place, __u64 hash, __u32 sets)
{
	struct news_line *line;
	__u32 set, at;

	if (!(s->flags & SETTING_NEWS))
		return;
	set = set_of_place(a, place, hash, sets);
	at = set / NEWS_LINE_SETS;
	line = bpf_map_lookup_elem(news, &at);
	if (line)
		store_8(&line->of_set[set % NEWS_LINE_SETS], 1);
}
