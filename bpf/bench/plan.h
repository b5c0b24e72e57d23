/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the generator sends: user space writes a plan, the programs of this
 * directory follow it.
 */
#pragma once

#include <linux/types.h>

#define FRAME 96 /* bytes of the template, and of the longest frame */
#define SHORT 64 /* bytes of the others */
#define SHORT6 80 /* bytes of those of IPv6 */

/* Place of the plan of CPUs of odd numbers: apart from the first, so that they share no line. */
#define PLAN_OF_SECOND 8

struct plan {
	__u8 frame[FRAME]; /* what does not vary */
	__u64 next; /* walk: number of the next flow */
	__u64 step; /* walk: how far it is from one flow to the next */
	__u64 random; /* the others: state of the generator */
	__u32 flows; /* how many there are */
	__u32 hot; /* so many of them get */
	__u32 share; /* this share of the packets, in 2^-32 */
	__be32 vip; /* the first address; of IPv6 it is the template's */
	__u32 vips; /* how many consecutive addresses flows are spread over */
	__u32 ports; /* 1 or 2: how many ports */
	__be16 port[2]; /* a client's flows go to them in turn */
};
