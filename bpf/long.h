/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The long way: from a frame to an outcome, step by step, for every packet that
 * is not quite usual, and for those of both families.
 */
#pragma once

#include "admit.h"
#include "connection.h"
#include "family.h"
#include "fastrows.h"
#include "forward_dr.h"
#include "fragment.h"
#include "record.h"
#include "stats.h"
#ifdef LVX_IPV6
#include "discovery.h"
#else
#include "arp.h"
#include "nat.h"
#endif
#include "tunnel.h"

/* A function for its stack: the key's place is free again behind it. */
static __always_inline struct interface *get_interface(void)
{
	__u32 slot = interface_slot;

	return bpf_map_lookup_elem(&interfaces, &slot);
}

/*
 * Several packets that GRO, or the sender's TSO, has made one of: generic XDP
 * sees them so. They are cut up again on the way out, and no single packet
 * comes that is longer than the interface takes.
 */
static __always_inline int is_merged(const struct run *r)
{
	return r->me->mode == MODE_GENERIC && r->p.length > r->me->mtu;
}

/* Whether the packet, which is longer than the way takes, may be sent all the same. */
static __always_inline int is_cut_up_later(const struct run *r)
{
	return real_method(r->real) <= FORWARD_NAT && is_merged(r);
}

/* The packet, whose TTL is already one less, goes to the real in another one. */
static __always_inline int send_through_tunnel(struct run *r)
{
	__u32 slot = r->slot;
	struct tunnel *t = bpf_map_lookup_elem(&tunnels, &slot);
	int has_ports = r->verdict != VERDICT_ICMP_FORWARDED && !is_later_fragment(&r->p);

	if (!t || encapsulate(r->ctx, r->real, t, r->p.ip, has_ports ? r->p.l4 : 0))
		return DROP(VERDICT_NO_HEADROOM);
	return transmit_tagged(r->ctx, r->real, r->verdict);
}

#ifndef LVX_IPV6
/* The packet is for the real's own address and port now. 0 if that could be done. */
static __always_inline int translate(struct run *r)
{
	__u32 slot = r->slot;
	struct address *to = bpf_map_lookup_elem(&addresses, &slot);
	struct iphdr *ip = r->data + (r->p.ip & 31);
	void *l4 = r->data + (r->p.l4 & 127);
	struct translation t = { .from = r->p.destination };

	if (!to || (void *)(ip + 1) > r->end)
		return 1;
	t.to = to->word[3];
	t.from_port = r->p.destination_port;
	t.to_port = r->real->port ?: t.from_port;
	if (r->verdict == VERDICT_ICMP_FORWARDED) {
		if (translate_quoted(l4, r->end, &t, 0))
			return 1;
	} else if (!is_later_fragment(&r->p)) {
		if (translate_transport(r->me, ip, l4, r->end, r->p.length - (r->p.l4 - r->p.ip), &t, 0))
			return 1;
	}
	translate_address(ip, &t, 0);
	return 0;
}

#endif

/* The packet, whose TTL is already one less, goes by another way than direct routing. */
static __always_inline int send_otherwise(struct run *r)
{
#ifndef LVX_IPV6
	if (real_method(r->real) == FORWARD_NAT) {
		if (translate(r))
			return PASS(VERDICT_MALFORMED);
		rewrite_macs(r->data, r->real);
		return transmit_tagged(r->ctx, r->real, r->verdict);
	}
#endif
	return send_through_tunnel(r);
}

/* Whether ICMP may speak of the packet: not of an ICMP error, nor of IPv4's later fragments (icmp_send). */
static __always_inline int is_answerable(const struct run *r)
{
	return r->verdict != VERDICT_ICMP_FORWARDED && (IP_VERSION != 4 || !is_later_fragment(&r->p));
}

/* Count the packet and send it to the real, which is there. */
static __always_inline int send_to_real(struct run *r)
{
	void *ip = r->data + (r->p.ip & 31); /* what the verifier has forgotten */
	struct real *real = r->real;

	record(STEP_REAL, r->slot);
	count_packet(r->slot, r->p.length, r->connections);
	if (real->flags & REAL_LOCAL)
		return PASS(VERDICT_LOCAL);
	if (r->p.ttl <= 1) {
		if (!is_answerable(r))
			return DROP(VERDICT_TTL_SILENT);
		return answer_with(r, VERDICT_ANSWERED_TTL);
	}
	if (r->p.length > real->mtu && !is_cut_up_later(r)) {
		record(STEP_MTU, real->mtu);
		if (!is_answerable(r) || !r->p.dont_fragment)
			return DROP(VERDICT_TOO_BIG);
		return answer_with(r, VERDICT_ANSWERED_TOO_BIG);
	}
	if (ip + IP_HEADER > r->end)
		return PASS(VERDICT_MALFORMED);
	decrease_ttl(ip);
	if (real_method(real) != FORWARD_DR)
		return send_otherwise(r);
	rewrite_macs(r->data, real);
	return transmit_tagged(r->ctx, real, r->verdict);
}

static __always_inline int send_answer(struct run *r)
{
	struct answer a = {
		.ip = r->p.ip,
		.length = r->p.length,
		.verdict = r->verdict,
	};

	if (r->real)
		a.mtu = r->real->mtu;
	return answer(r->ctx, &a) & 0xffff; /* never CONTINUE: the frame is another one now */
}

/* From a frame to an outcome, SEND or ANSWER. */
static __always_inline int decide(struct run *r)
{
	int outcome;

	if (r->data + ETHER + IP_HEADER > r->end)
		return PASS(VERDICT_MALFORMED);
	r->me = get_interface();
	r->s = get_settings();
	if (!r->me)
		return PASS(VERDICT_NOT_OUR_MAC);
	if (!is_for_us(r->data, r->me) || is_solicitation(r->data, r->end))
		return pass_or_silence(r, VERDICT_NOT_OUR_MAC);
	if (has_vlans(r->me) && !is_vlan_served(r->ctx))
		return PASS(VERDICT_NOT_OUR_MAC);
	r->p.ip = parse_ethernet(r->data, r->end, bpf_htons(ETHERTYPE));
	if (!r->p.ip)
		return pass_or_silence(r, VERDICT_NOT_IPV4);
	outcome = parse_header(r->ctx, r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return PASS(outcome);
	record_packet(r->data, r->end, &r->p);
	if (r->p.ip + r->p.length > bpf_xdp_get_buff_len(r->ctx))
		return PASS(VERDICT_MALFORMED); /* cut short */
	r->vip = find_vip(r->s, r->p.destination);
	if (!r->vip)
		return pass_foreign(r->s);
	record(STEP_VIP, r->vip->flags);
	if (is_martian(r->p.source))
		return PASS(VERDICT_MARTIAN);
	if (r->vip->flags) {
		outcome = admit(r);
		if (outcome != CONTINUE)
			return outcome;
	}
	if (r->p.protocol != IPPROTO_TCP && r->p.protocol != IPPROTO_UDP) {
		if (r->p.protocol == ICMP_PROTOCOL && !r->p.fragment)
			return forward_icmp_error(r);
		return PASS(VERDICT_OTHER_PROTOCOL);
	}
	if (is_later_fragment(&r->p))
		return forward_fragment(r);
	outcome = balance_packet(r);
	if (r->p.fragment && outcome != SEND)
		note_fragment(r, outcome);
	return outcome;
}

/* Every packet that is not quite usual. A global function: verified alone. */
__attribute__((noinline)) int long_way(struct xdp_md *ctx)
{
	struct run r = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.slot = NO_SLOT,
	};
	struct run *run = &r;
	int outcome = RECORDS ? CONTINUE : way_by_row_if_any(ctx);

	if (outcome != CONTINUE)
		return outcome;
	asm volatile(""
		     : "+r"(run)
		     :
		     : "memory"); /* keep it in memory: registers are few */
	outcome = decide(run);
	if (outcome == SEND) {
		outcome = send_to_real(run);
		if (run->p.fragment && !is_later_fragment(&run->p))
			note_fragment(run, outcome);
	}
	if (outcome == ANSWER)
		outcome = send_answer(run);
	return outcome;
}
