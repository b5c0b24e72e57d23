/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the long way carries from step to step. A step returns an outcome, or
 * CONTINUE, or what is left to do (SEND, ANSWER): sending and answering are
 * done in one place, since what is inlined wherever it is decided would be
 * verified there too.
 */
#pragma once

#include "packet.h"
#include "set.h"

#define SEND (-2) /* to run.real */
#define ANSWER (-3) /* with the ICMP message of run.verdict */

/*
 * Kept small: Linux 6.1 rounds the stack of each function up to 32 bytes, and
 * the four that are nested deepest may have 512.
 */
struct run {
	struct xdp_md *ctx;
	void *data;
	void *end;
	struct settings *s;
	struct interface *me;
	struct vip *vip;
	struct packet p;
	struct flow_words flow;
	struct set *first; /* where the flow is, or will be: looked up once */
	struct set *second;
	struct real *real; /* with SEND: where to, */
	__u32 slot; /* its number (NO_SLOT: nowhere yet) */
	__u16 verdict; /* and what it is called; with ANSWER too */
	__u16 connections; /* 1 if the packet opens one */
};

static __always_inline int send_to(struct run *r, struct real *real, __u32 slot, int verdict)
{
	r->real = real;
	r->slot = slot;
	r->verdict = verdict;
	return SEND;
}

static __always_inline int answer_with(struct run *r, int verdict)
{
	r->verdict = verdict;
	return ANSWER;
}
