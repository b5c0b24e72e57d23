/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The long way back: from a frame that is for no VIP to an outcome, for every
 * reply by NAT that is not quite usual.
 *
 * A reply whose way is not known is not passed up: with the VIP as its source it
 * would be a martian there.
 */
#pragma once

#include "fragment.h"
#include "long.h"
#include "record.h"
#include "reply.h"

/* The daemon gets the reply, which is as it has to leave: the kernel's stack asks for the MAC. */
static __always_inline int hand_on(struct run *r)
{
	__u64 size = bpf_xdp_get_buff_len(r->ctx);
	struct held_frame *h;

	if (bpf_jiffies64() > r->s->alive || size < ETHER || size > sizeof(h->frame))
		return DROP(VERDICT_NO_WAY_BACK);
	if (!STORES)
		return DROP(VERDICT_REPLY_HANDED_ON);
	h = bpf_ringbuf_reserve(&held, sizeof(*h), 0);
	if (!h)
		return DROP(VERDICT_NO_WAY_BACK);
	h->key = (struct fragment_key){};
	h->ifindex = r->ctx->ingress_ifindex;
	h->size = size;
	if (bpf_xdp_load_bytes(r->ctx, 0, h->frame, size)) {
		bpf_ringbuf_discard(h, 0);
		return DROP(VERDICT_NO_WAY_BACK);
	}
	bpf_ringbuf_submit(h, 0);
	return DROP(VERDICT_REPLY_HANDED_ON);
}

/* What the host answers a real with, that of the interface: 0 if it has none. */
static __always_inline __be32 first_own_address(const struct interface *me)
{
#pragma unroll
	for (int i = 0; me && i < OWN_ADDRESSES; i++) {
		const struct address *own = &me->own[i];

		if (!own->word[0] && !own->word[1] && own->word[2] == bpf_htonl(0xffff))
			return own->word[3];
	}
	return 0;
}

/* The real's address and port become the VIP's. 0 if that could be done. */
static __always_inline int translate_reply(struct run *r, const struct departure *d)
{
	struct iphdr *ip = r->data + (r->p.ip & 31);
	void *l4 = r->data + (r->p.l4 & 127);
	struct translation t = {
		.from = d->from,
		.to = r->p.destination,
		.from_port = d->port,
		.to_port = r->p.destination_port,
	};

	if ((void *)(ip + 1) > r->end)
		return 1;
	if (r->verdict == VERDICT_ICMP_REPLIED) {
		if (translate_quoted(l4, r->end, &t, 1))
			return 1;
		t.from = ip->saddr; /* of the real, or of a router in front of it */
	} else if (!d->is_later) {
		if (translate_transport(r->me, ip, l4, r->end, r->p.length - (r->p.l4 - r->p.ip), &t, 1))
			return 1;
	}
	translate_address(ip, &t, 1);
	decrease_ttl(ip);
	return 0;
}

/*
 * Send what is a reply of the real in r->slot. With TTL 1 it is not counted, and means
 * nothing: ip_forward throws it away before ip_vs_out.
 */
static __always_inline int send_reply(struct run *r, struct departure *d)
{
	int found;

	if (r->p.ttl <= 1) {
		if (r->verdict == VERDICT_ICMP_REPLIED || d->is_later)
			return DROP(VERDICT_TTL_SILENT);
		return answer_with(r, VERDICT_ANSWERED_TTL);
	}
	count_reply(r->slot, r->p.length);
	found = find_hop(r->ctx, &d->hop, r->p.destination, r->p.source,
			 is_merged(r) ? 0 : r->p.length);
	record(STEP_ROUTE, d->hop.ifindex | (__u64)d->hop.kind << 32);
	if (found == VERDICT_NO_WAY_BACK)
		return DROP(VERDICT_NO_WAY_BACK);
	if (found == VERDICT_ANSWERED_TOO_BIG) {
		record(STEP_MTU, d->hop.mtu);
		if (r->verdict == VERDICT_ICMP_REPLIED || d->is_later || !r->p.dont_fragment)
			return DROP(VERDICT_TOO_BIG);
		return answer_with(r, VERDICT_ANSWERED_TOO_BIG);
	}
	if (translate_reply(r, d))
		return PASS(VERDICT_NOT_OURS);
	if (found == VERDICT_REPLY_HANDED_ON)
		return hand_on(r);
	return leave_by(r->ctx, r->data, (const __u64 *)&d->hop, r->verdict);
}

/* What a reply means for its connection. */
static __always_inline void continue_by_reply(struct run *r, struct real *real, __u64 *place,
					      __u64 value)
{
	__u32 state = STATE_UDP;
	__u64 rank = 0;

	r->flow.value = value;
	if (r->p.protocol == IPPROTO_TCP)
		state = next_two_way_state(value_two_way_state(value), r->p.tcp_flags, 1);
	if (STORES)
		flow_touch(&r->flow, r->first, r->second, place, state);
	if (state == STATE_ESTABLISHED && value_state(value) != state)
		rank = TEMPLATE_ASSURED;
	else if (!(value & PROVEN) && (state == STATE_ESTABLISHED || state == STATE_UDP))
		rank = state == STATE_UDP ? TEMPLATE_ASSURED : TEMPLATE_RANK;
	if (rank)
		raise_template(r, real, value, rank);
}

/* The flow of what comes from d's port, and what follows for both: CONTINUE, or an outcome. */
static __always_inline int use_flow(struct run *r, struct departure *d)
{
	__u64 *place = 0, value;
	struct real *real;
	int outcome;

	outcome = find_flow_of_reply(r, d, r->p.source, r->p.source_port);
	if (outcome == CONTINUE)
		outcome = admit_reply(r->p.destination);
	if (outcome != CONTINUE)
		return outcome;
	if (!find_sets(r))
		return DROP(VERDICT_TABLE_BUSY);
	value = look_up_flow(r, &place);
	if (!value || !place || flow_is_expired(r->s, value, clock_now(r->s)))
		return PASS(VERDICT_NOT_OURS);
	r->slot = value_real(value);
	real = bpf_map_lookup_elem(&reals, &r->slot);
	if (!real)
		return PASS(VERDICT_NOT_OURS);
	r->real = real;
	if (r->verdict == VERDICT_ICMP_REPLIED) {
		record(STEP_QUOTED, value);
		return CONTINUE;
	}
	record(STEP_REPLY, value);
	if (r->p.ttl > 1)
		continue_by_reply(r, real, place, value);
	return CONTINUE;
}

/* A later fragment of a reply: after its first. */
static __always_inline int forward_later_part(struct run *r, struct departure *d)
{
	struct fragment *note = find_note(&r->p);
	struct real *from;
	__u32 real = r->p.source;
	int outcome;

	if (!note || !note->vip || (__u16)((__u16)clock_now(r->s) - note->tick) > fragment_ticks)
		return PASS(VERDICT_NOT_OURS);
	record(STEP_NOTE, note->real);
	from = bpf_map_lookup_elem(&reals, &note->real);
	if (from && real_generation(from) == note->generation)
		r->slot = note->real; /* else it is another's now, who has sent nothing */
	d->from = real;
	d->is_later = 1;
	r->p.source = r->p.destination;
	r->p.destination = note->vip;
	outcome = admit_reply(r->p.destination);
	return outcome == CONTINUE ? send_reply(r, d) : outcome;
}

/* The datagram's later fragments come from the VIP, too. */
static __always_inline void note_reply(const struct run *r, const struct departure *d)
{
	struct fragment note = {
		.real = r->slot,
		.generation = r->real ? real_generation(r->real) : 0,
		.tick = clock_now(r->s),
		.vip = r->p.destination,
	};
	struct fragment_key key = {
		.source = d->from,
		.destination = r->p.source,
		.id = r->p.id,
		.protocol = r->p.protocol,
	};

	if (STORES)
		bpf_map_update_elem(&fragments, &key, &note, BPF_ANY);
}

/* From a frame that is for none of our VIPs to an outcome, or ANSWER. */
static __always_inline int decide_reply(struct run *r, struct departure *d)
{
	int outcome;

	if (r->data + ETHER + IP_HEADER > r->end)
		return PASS(VERDICT_NOT_OURS);
	r->me = get_interface();
	r->s = get_settings();
	if (!r->me || (has_vlans(r->me) && !is_vlan_served(r->ctx)))
		return PASS(VERDICT_NOT_OURS);
	r->p.ip = parse_ethernet(r->data, r->end, bpf_htons(ETHERTYPE));
	if (!r->p.ip || parse_header(r->ctx, r->data, r->end, &r->p) != CONTINUE)
		return PASS(VERDICT_NOT_OURS);
	if (r->p.protocol == ICMP_PROTOCOL && !r->p.fragment) {
		if (parse_quoted(r->ctx, r->data, r->end, &r->p) != CONTINUE)
			return PASS(VERDICT_NOT_OURS);
		r->verdict = VERDICT_ICMP_REPLIED;
		/* What is quoted went to the real, and the error goes to its client. */
		d->from = r->p.source;
		d->port = r->p.source_port;
		r->p.source = r->p.destination;
		r->p.source_port = r->p.destination_port;
	} else if (r->p.protocol != IPPROTO_TCP && r->p.protocol != IPPROTO_UDP) {
		return PASS(VERDICT_NOT_OURS);
	} else if (is_later_fragment(&r->p)) {
		return forward_later_part(r, d);
	} else {
		if (parse_ports(r->data, r->end, &r->p) != CONTINUE)
			return PASS(VERDICT_NOT_OURS);
		d->from = r->p.source;
		d->port = r->p.source_port;
		r->p.source = r->p.destination;
		r->p.source_port = r->p.destination_port;
	}
	outcome = use_flow(r, d);
	if (outcome != CONTINUE)
		return outcome;
	if (r->p.fragment && r->p.ttl > 1)
		note_reply(r, d);
	return send_reply(r, d);
}

/* Every reply that is not quite usual. A global function: verified alone. */
__attribute__((noinline)) int long_way_back(struct xdp_md *ctx)
{
	struct departure d = {};
	struct run r = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.slot = NO_SLOT,
		.verdict = VERDICT_REPLIED,
	};
	struct run *run = &r;
	int outcome;

	asm volatile(""
		     : "+r"(run)
		     :
		     : "memory"); /* keep it in memory: registers are few */
	outcome = decide_reply(run, &d);
	if (outcome == ANSWER) {
		struct answer a = {
			.ip = run->p.ip,
			.length = run->p.length,
			.verdict = run->verdict,
			.mtu = d.hop.mtu,
			.from = first_own_address(run->me),
		};

		outcome = answer(ctx, &a) & 0xffff;
	}
	return outcome;
}
