/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * While tables are moved to others, of another size or layout. The loader
 * copies them, exchanges the programs and copies again; this is about what was
 * opened in the table that is left behind in between and is not copied yet. If
 * its words are today's, a miss looks there too; if not, the packet is dropped,
 * and finds its flow when it comes again, and so is a reply by NAT (reply.h) in
 * either case. With nothing to move all of this is
 * gone when the program is loaded.
 */
#pragma once

#include "flow.h"
#include "run.h"
#include "template.h"

static __always_inline __u64 find_left_flow_in(const struct run *r, __u32 number, __u64 **place)
{
	struct set *set;

	if (is_in_pieces(old_flow_sets))
		set = set_in_pieces(&OLD_FLOW_PIECES, &number);
	else
		set = bpf_map_lookup_elem(&OLD_FLOWS, &number);
	return set ? set_find(set, r->flow.key, flow_match(r->p.destination_port), place) : 0;
}

/* The flow of r->flow.key where it was left behind. It goes on there, until it is copied from there. */
static __always_inline __u64 find_left_flow(const struct run *r, __u64 **place)
{
	__u64 value = find_left_flow_in(r, first_set(r->flow.hash, old_flow_sets & ~IN_PIECES), place);

	if (!value)
		value = find_left_flow_in(r, second_set(r->flow.hash, old_flow_sets & ~IN_PIECES), place);
	return value;
}

static __always_inline __u64 find_left_template(__u64 key, __u32 index)
{
	struct set *set = bpf_map_lookup_elem(&OLD_TEMPLATES, &index);
	__u64 *place = 0;

	return set ? set_find(set, key, template_match(), &place) : 0;
}

/* Whether the template of rq->key was left behind: then rq makes it anew. A function for its stack. */
__attribute__((noinline)) int ask_left_template(struct settings *s, struct template_request *rq)
{
	__u64 hash, now, value;

	if (!s || !rq)
		return 0;
	hash = template_hash(s, rq->key);
	now = clock_now(s);
	value = find_left_template(rq->key, first_set(hash, old_template_sets));
	if (!value)
		value = find_left_template(rq->key, second_set(hash, old_template_sets));
	if (!value || !template_is_valid(s, value, now, rq->action))
		return 0;
	rq->value = value & ~(NONCE_MASK | TEMPLATE_EXPIRES);
	rq->action = TEMPLATE_CREATE;
	return 1;
}

/* Whether a packet without a flow may be of one that is not copied yet. */
static __always_inline int may_be_left(const struct packet *p)
{
	return p->protocol != IPPROTO_TCP || !(p->tcp_flags & TCP_SYN);
}
