/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shapes of what a recording program hands out: see record.h. The
 * program that serves otherwise knows nothing of them.
 */
#pragma once

#include "types.h"

enum recording_size {
	STEPS_MOST = 24, /* steps of a packet that are kept */
	FRAME_MOST = 2048, /* bytes of a frame that are kept */
	FRAMES_MOST = 6144, /* the frame as it came, then as it was sent; with room to spare for a verifier */
};

/* What was decided on a packet's way, and by what; value is told with each. */
enum step {
	STEP_NONE,
	STEP_VIP, /* the destination is a VIP: its flags */
	STEP_NO_FLOW, /* no connection is known */
	STEP_FLOW, /* a connection is known: the flow's word */
	STEP_FLOW_EXPIRED, /* it has expired: the flow's word */
	STEP_REAL_REMOVED, /* its real was removed, and the packet opens another */
	STEP_RESCHEDULED, /* it is scheduled anew although its real is there */
	STEP_SERVICE, /* the service that listens: its number */
	STEP_OPENS_NOTHING, /* the flags do not open a connection */
	STEP_TEMPLATE, /* the client's template: its word */
	STEP_NO_TEMPLATE, /* the client has no valid template */
	STEP_SORRY, /* no real is usable, the sorry server is chosen */
	STEP_IN_TURN, /* the next real of the rotation is chosen: the number of the pick */
	STEP_HASHED, /* the real is chosen by a hash: the number that is hashed */
	STEP_FALLBACK, /* the hash's own real is not usable: its slot */
	STEP_LEAST, /* the real with the least connections is chosen */
	STEP_QUOTED, /* an ICMP error quotes a connection: the flow's word */
	STEP_NOTE, /* a later fragment, and the first has left a note: its real's slot */
	STEP_NO_NOTE, /* a later fragment, and the first has not come */
	STEP_REAL, /* the real that gets the packet: its slot */
	STEP_REPLY, /* a real's reply by NAT: the flow's word */
	STEP_ROUTE, /* its way to the client: the interface's number, 1 << 32 more if by a router that is known */
	STEP_MTU, /* the packet is too long for the way out: that way's MTU */
	STEP_ROW, /* the service is stateless: the word of the row that the hash names */
};

struct step_taken {
	__u64 value;
	__u32 step; /* enum step */
	__u32 spare;
};

/* A packet's way. What follows is as long as it says; a reader gets no more. */
struct recording {
	__u64 nanoseconds; /* CLOCK_MONOTONIC, when the packet came */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u16 version; /* of IP; 0: no packet that was understood */
	__u16 protocol;
	__u32 ifindex;
	__u32 verdict; /* enum verdict */
	__u32 action; /* enum xdp_action */
	__u32 steps; /* how many were taken: those above STEPS_MOST are not kept */
	__u32 length_in; /* of the frame as it came */
	__u32 length_out; /* of the frame as the driver got it, 0 if it did not */
	__u32 kept_in; /* bytes of them that are kept */
	__u32 kept_out;
	struct step_taken step[STEPS_MOST];
	__u8 frames[FRAMES_MOST];
};

/* Which packets are recorded: those of which everything is so. 0 is "any". */
struct recording_filter {
	__u64 verdicts; /* a bit each */
	struct address net[2]; /* the source or the destination is in each */
	struct address mask[2];
	__be16 port[2]; /* the source's or the destination's is each */
	__u16 version; /* of IP */
	__u16 protocol;
};
