/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the packet path counts, in shapes that it shares with user space as those of types.h. */
#pragma once

#include "types.h"

/*
 * The thresholds of a real, and by whom its connections are counted. The packet
 * path alone writes is_overloaded: a hysteresis that a lag would break.
 */
struct load {
	__u32 upper; /* with so many it is overloaded; 0 = never */
	__u32 lower; /* with fewer it is not any more */
	__u32 is_overloaded; /* gets no new connections */
	__u32 spread; /* SHARES - 1: each CPU counts in its own share; 0: all in the first, which is exact then */
	__u32 spare[4];
};

/*
 * Live connections of a real, as ipvsadm counts them: those that some CPUs have
 * counted. A connection may end at another CPU than it began at, so one share of a
 * real means nothing, and may be negative; the sum of all does.
 */
struct share {
	__s32 active; /* SYN_RECV, ESTABLISHED */
	__s32 inactive; /* everything else */
};

/* The same share of eight reals. */
struct share_line {
	struct share of[SHARES];
};

/* Counters of a real, one per CPU. Bytes are IP lengths. */
struct counter {
	__u64 packets;
	__u64 bytes;
	__u64 connections;
};

/* The same of a real's replies, which come by here with NAT only. */
struct reply_counter {
	__u64 packets;
	__u64 bytes;
};

/* How many packets ended in a verdict, or flows in an eviction. */
struct tally {
	__u64 count;
};

/* What a CPU has counted, by enum verdict. Whole lines: each CPU writes its own. */
struct verdict_counts {
	struct tally of[COUNTED_VERDICTS];
};
