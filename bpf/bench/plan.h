/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the generator sends: user space writes a plan, the programs of this
 * directory follow it.
 */
#pragma once

#include <linux/types.h>

#define FRAME 96 /* bytes of the template, and of the longest frame */
#define SHORT 64 /* bytes of the others */

enum plan_kind {
	PLAN_PLAIN, /* TCP or UDP: the tuple is the packet's own */
	PLAN_QUOTE, /* an ICMP error: the tuple, reversed, is what it quotes */
	PLAN_TAIL, /* a fragment without ports, the datagram's number as its id */
};

enum plan_order {
	ORDER_UNIFORM, /* any flow, equally likely */
	ORDER_SKEWED, /* nine of ten packets belong to one flow in a hundred */
	ORDER_SEQUENCE, /* one flow after the other, from next on */
};

struct plan {
	__u8 frame[FRAME]; /* what does not vary */
	__u64 next; /* number of the next flow of a sequence */
	__u64 random; /* state of the generator, not 0 */
	__u32 flows; /* how many there are */
	__u32 order; /* enum plan_order */
	__u32 kind; /* enum plan_kind */
	__u32 vips; /* flows are spread over so many consecutive addresses */
	__u32 share; /* 2^share consecutive flows come from one client */
	__be32 vip; /* the first of them */
	__be16 port[2]; /* a client's flows go to one of the two, in turn */
};
