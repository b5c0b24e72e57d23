/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * deny and allow lists. One trie for all services, asked only for services
 * (and, through a flag, reals) that have lists: the others pay a bit test.
 * The longest prefix that contains the client decides; a service with an
 * allow list has FILTER_DENY at its root.
 */
#pragma once

#include "family.h"
#include "maps.h"

static __always_inline __u32 filter_action(ip_t client, __u32 service)
{
	struct filter_key key = {
		.bits = 32 + 128,
		.service = service,
		.prefix = full_address(client),
	};
	enum filter_action *action = bpf_map_lookup_elem(&filters, &key);

	return action ? *action : FILTER_NONE;
}

/* A global function: few services have lists, the others should not pay for their key. */
__attribute__((noinline)) int is_denied(ip_t client, __u32 cookie, __u32 settings_flags)
{
	if (IS_MISSING(client))
		return 0;
	if (settings_flags & SETTING_GLOBAL_FILTER &&
	    filter_action(client, FILTER_GLOBAL) == FILTER_DENY)
		return 1;
	return filter_action(client, cookie) == FILTER_DENY;
}
