/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Replies by NAT (ip_vs_out): what a real server sends to a client of its. A
 * connection has one flow for both ways: the reply's source names the VIP and
 * its port (replies), and with the client that is the flow's key. Here is how it
 * is found. What is no reply is the kernel's: a real server's own traffic is
 * routed, and masqueraded, there.
 */
#pragma once

#include "admit.h"
#include "connection.h"
#include "nat.h"
#include "route.h"

/* A reply's source as the first word of struct reply. */
static __always_inline __u64 reply_word(__be32 source, __be16 port, __u16 protocol)
{
	return source | (__u64)port << 32 | (__u64)protocol << 48;
}

/* The line that a search touches i-th. */
static __always_inline struct reply_line *reply_line_at(__u32 half, __u64 wanted, __u32 i)
{
	__u32 hash = wanted * 0x9e3779b97f4a7c15ULL >> 49;
	__u32 at = (half & 1) * REPLY_LINES + ((hash + i) & (REPLY_LINES - 1));

	return bpf_map_lookup_elem(&replies, &at);
}

/* What a reply was, and how it leaves. */
struct departure {
	struct hop hop;
	__be32 from; /* the real's address */
	__be16 port; /* and port */
	__u16 is_later; /* a later fragment has no port */
};

/* A search for what a reply answers to. */
struct question {
	struct reply found; /* in: the reply's source in the first word; out: of which VIP's port */
	__be32 client;
	__be16 client_port;
	__u16 is_awaited; /* out: of a real's port, and the flow may be on its way */
};

/* Whether a flow's packets go to this port of this real by NAT. */
static __always_inline int is_to(__u64 value, const struct reply *found)
{
	__u32 slot = value_real(value);
	struct real *real = bpf_map_lookup_elem(&reals, &slot);
	struct address *addr = bpf_map_lookup_elem(&addresses, &slot);

	return real && addr && (real->generation & ~(FORWARD_TAGGED << 4)) == (FORWARD_NAT << 4 | value_generation(value)) &&
	       addr->word[3] == found->source &&
	       (real->port ?: value_port(value)) == found->port;
}

/*
 * Whether this director serves the VIP that a reply is to come from: CONTINUE, or
 * an outcome. A global function: it is verified once.
 */
__attribute__((noinline)) int admit_reply(__be32 addr)
{
	struct vip *vip = find_vip(get_settings(), addr);

	if (!vip)
		return PASS(VERDICT_NOT_OURS);
	if (vip->flags & VIP_STANDBY)
		return PASS(VERDICT_STANDBY);
	if (vip->flags & VIP_LEASED && !lease_is_alive(vip))
		return DROP(VERDICT_LEASE_OVER);
	return CONTINUE;
}

/* Whether a live flow is of this place of replies; q names its VIP then. A global function: it is verified once. */
__attribute__((noinline)) int answers_to(struct question *q, struct reply *at)
{
	struct settings *s = get_settings();
	__u64 value, key, hash;
	__be16 port;

	if (!q || !at)
		return 0;
	port = at->vip_port ?: q->found.port;
	key = flow_key(q->client, q->client_port, at->number);
	hash = flow_hash(s, q->client, q->client_port, at->vip, port);
	value = peek_flow(key, hash, port);
	if (!value || flow_is_expired(s, value, clock_now(s)) || !is_to(value, &q->found))
		return 0;
	q->found.vip = at->vip;
	q->found.vip_port = port;
	q->found.number = at->number;
	return 1;
}

/* Whether the director that had the VIP of this place may yet tell of the flow. */
static __always_inline int may_be_told_of_reply(const struct question *q, const struct reply *at)
{
	return q->found.protocol == IPPROTO_TCP && may_be_told() && admit_reply(at->vip) == CONTINUE;
}

/* What opens a connection of the real's own is no reply. */
static __always_inline int opens_own(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * Find the flow that a reply from this port is of, among the VIPs' ports whose
 * packets may go there; port 0 is for reals that have the VIP's. A global function: it is
 * verified once.
 */
__attribute__((noinline)) int find_question(struct question *q, __u32 any_port)
{
	struct settings *s = get_settings();
	__u64 wanted;

	if (!q)
		return 0;
	wanted = reply_word(q->found.source, any_port ? 0 : q->found.port, q->found.protocol);
	for (__u32 i = 0; i < PROBES; i++) {
		struct reply_line *line = reply_line_at(s->half, wanted, i);

		if (!line)
			return 0;
		for (int w = 0; w < REPLY_WAYS; w++) {
			struct reply *at = &line->way[w];

			if (*(__u64 *)at != wanted)
				continue;
			if (answers_to(q, at))
				return 1;
			if (is_moving() || may_be_told_of_reply(q, at))
				q->is_awaited = 1;
		}
		if (!line->way[REPLY_WAYS - 1].protocol)
			return 0; /* a line that is not full is the last */
	}
	return 0;
}

/*
 * Find the flow of what comes from d's port to a client: CONTINUE, or an outcome.
 * Behind this r->p is as the packets of the client are. The flow may be on its way,
 * from an old table or another director: the reply finds its flow when it comes again.
 */
static __always_inline int find_flow_of_reply(struct run *r, const struct departure *d,
					      __be32 client, __be16 client_port)
{
	struct question q = {
		.found = { .source = d->from, .port = d->port, .protocol = r->p.protocol },
		.client = client,
		.client_port = client_port,
	};

	if (!find_question(&q, 0) && !find_question(&q, 1))
		return q.is_awaited && !opens_own(&r->p) ? DROP(VERDICT_MOVED) : PASS(VERDICT_NOT_OURS);
	r->p.source = client;
	r->p.source_port = client_port;
	r->p.destination = q.found.vip;
	r->p.destination_port = q.found.vip_port;
	identify_flow(r, q.found.number);
	return CONTINUE;
}
