/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP as the kernel's ip_vs_proto_tcp.c has it: as a director sees it that gets
 * only what clients send ("INPUT ONLY"), and as one that gets the replies, too.
 */
#pragma once

#include "types.h"

enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

/*
 * Nibbles: the next state by the present one, a word for each kind of packet
 * (RST before SYN before FIN before ACK, as tcp_state_idx has it).
 */
#define ON_SYN 0x76111211u
#define ON_FIN 0x76543345u
#define ON_ACK 0x76543222u
#define ON_RST 0x76555515u
#define ON_NONE 0x76555555u

static __always_inline __u32 next_state(__u32 state, __u8 flags)
{
	__u32 table = ON_NONE;

	if (flags & TCP_ACK)
		table = ON_ACK;
	if (flags & TCP_FIN)
		table = ON_FIN;
	if (flags & TCP_SYN)
		table = ON_SYN;
	if (flags & TCP_RST)
		table = ON_RST;
	return table >> (state * 4) & 7;
}

/*
 * The same of a connection that is seen both ways, by all codes of enum
 * flow_state: "INPUT" and "OUTPUT" of the kernel's table. UDP and what has no
 * meaning stays as it is.
 */
#define IN_ON_SYN 0x1e11ba2876111211ULL
#define IN_ON_FIN 0x4edcba9876544c45ULL
#define IN_ON_ACK 0x2e5cba9876543222ULL
#define IN_ON_RST 0x1ed5ba5876555515ULL
#define OUT_ON_SYN 0x1e99ba9876999219ULL
#define OUT_ON_FIN 0x4ed4ba9876543344ULL
#define OUT_ON_ACK 0x2edcba9876543222ULL
#define OUT_ON_RST 0x5e55ba9876545555ULL
#define TWO_WAY_ON_NONE 0x5e55ba5876555555ULL

/* A global function: its branches are verified once. */
__attribute__((noinline)) __u32 next_two_way_state(__u32 state, __u8 flags, int is_reply)
{
	__u64 table = TWO_WAY_ON_NONE;

	if (flags & TCP_ACK)
		table = is_reply ? OUT_ON_ACK : IN_ON_ACK;
	if (flags & TCP_FIN)
		table = is_reply ? OUT_ON_FIN : IN_ON_FIN;
	if (flags & TCP_SYN)
		table = is_reply ? OUT_ON_SYN : IN_ON_SYN;
	if (flags & TCP_RST)
		table = is_reply ? OUT_ON_RST : IN_ON_RST;
	return table >> (state * 4) & 15;
}

/* A SYN in these states is another connection's (is_new_conn_expected). */
static __always_inline int is_closed(__u32 state)
{
	return state == STATE_TIME_WAIT || state == STATE_CLOSE;
}
