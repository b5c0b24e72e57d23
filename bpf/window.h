/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space and the programs of pieces.h tell each other. */
#pragma once

#include "types.h"

/* A flow that takes another value, if it has the old one still. */
struct flow_change {
	__u32 set;
	__u32 way;
	__u64 old;
	__u64 value;
	__u64 found; /* out: old, if it was done */
};

/* What user space asks of a flow table in pieces: sets of it, and changes. */
struct flow_window {
	__u32 sets;
	__u32 changes;
	__u32 set[FLOW_READS];
	__u64 word[FLOW_READS * 2 * WAYS]; /* out: keys, values and addresses of each */
	struct flow_change change[FLOW_CHANGES];
};
