/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP as a director sees it that gets only what clients send: the one-way
 * table of the kernel's ip_vs_proto_tcp.c ("INPUT ONLY").
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

/* A SYN in these states is another connection's (is_new_conn_expected). */
static __always_inline int is_closed(__u32 state)
{
	return state == STATE_TIME_WAIT || state == STATE_CLOSE;
}
