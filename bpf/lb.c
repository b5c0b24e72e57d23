//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * lvx: LVS direct routing in XDP. Table of contents:
 *
 *   types.h       what user space and the packet path share; enum verdict
 *   maps.h        every map and why it is of its kind
 *   config.h      what is fixed at load time
 *   store.h       every store to a map
 *   record.h      how a packet is decided, for explain, trace and capture
 *   value.h       the bits of flows and templates
 *   packet.h      frame -> struct packet: Ethernet, TCP, UDP
 *   ipv4.h        what is IPv4's own: header, keys, quoted packets, answers
 *   run.h         what the long way carries from step to step
 *   admit.h       VIP, standby, peers, lease; ARP that must not be answered
 *   connection.h  the life of a connection: opened, continued, ended
 *   listen.h      VIP, port -> service
 *   set.h         the set-associative table, of which are
 *   flow.h          flows: which real a connection belongs to
 *   template.h      templates: which real a client belongs to (persistence)
 *   tcp.h         states of a connection that is seen one way
 *   select.h      schedulers
 *   filter.h      deny and allow lists
 *   fragment.h    fragments
 *   forward_dr.h  the frame's way out
 *   answer.h      ICMP that we send ourselves
 *   news.h        which sets have changed, for connection sync
 *   absorb.h      a program of its own: what peer directors tell goes into the tables
 *   stats.h       counting
 *   fast.h        the short way of nearly every packet
 *
 * The lookups of an established packet, in order; each is an inlined array
 * access, and what it costs is the cache line behind it:
 *
 *   interfaces  our MAC: frames for others are not touched       (hot)
 *   settings    which half is in force, timeouts, hash seeds     (hot)
 *   vips        is the address ours; its number in flow keys     (hot)
 *   flows       the flow and its real: the one line that misses  (cold: this is the price)
 *   reals       MAC, interface, generation                       (hot)
 *   counters    packets and bytes of the real, per CPU           (hot)
 *   verdicts    the packet's verdict, per CPU                    (hot)
 *
 * A new flow adds ports (and ranges), services, cursors, rings, locks, loads
 * and the second set.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "config.h"
#include "stats.h"
#include "ipv4.h"
#include "admit.h"
#include "connection.h"
#include "fragment.h"
#include "forward_dr.h"
#include "absorb.h"
#include "fast.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/*
 * Several packets that GRO, or the sender's TSO, has made one of: generic XDP
 * sees them so. They are cut up again on the way out, and no single packet
 * comes that is longer than the interface takes.
 */
static __always_inline int is_merged(const struct run *r)
{
	return r->me->mode == MODE_GENERIC && r->p.length > r->me->mtu;
}

/* Count the packet and send it to the real, which is there. */
static __always_inline int send_to_real(struct run *r)
{
	struct iphdr *ip = r->data + (r->p.ip & 31); /* what the verifier has forgotten */
	struct real *real = r->real;

	record(STEP_REAL, r->slot);
	count_packet(r->slot, r->p.length, r->connections);
	if (real->flags & REAL_LOCAL)
		return PASS(VERDICT_LOCAL);
	if (r->p.ttl <= 1) {
		if (r->verdict == VERDICT_ICMP_FORWARDED)
			return DROP(VERDICT_TTL_SILENT);
		return answer_with(r, VERDICT_ANSWERED_TTL);
	}
	if (r->p.length > real->mtu && !is_merged(r)) {
		record(STEP_MTU, real->mtu);
		if (r->verdict == VERDICT_ICMP_FORWARDED || !r->p.dont_fragment)
			return DROP(VERDICT_TOO_BIG);
		return answer_with(r, VERDICT_ANSWERED_TOO_BIG);
	}
	if ((void *)(ip + 1) > r->end)
		return PASS(VERDICT_MALFORMED);
	rewrite_macs(r->data, real);
	decrease_ttl(ip);
	return transmit(r->ctx, real, r->verdict);
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
	__u32 zero = 0, slot = interface_slot;
	int outcome;

	if (r->data + ETHER + sizeof(struct iphdr) > r->end)
		return PASS(VERDICT_MALFORMED);
	r->me = bpf_map_lookup_elem(&interfaces, &slot);
	r->s = bpf_map_lookup_elem(&settings, &zero);
	if (!r->me || !r->s)
		return PASS(VERDICT_NOT_OUR_MAC);
	if (!is_for_us(r->data, r->me))
		return pass_or_silence_arp(r, VERDICT_NOT_OUR_MAC);
	r->p.ip = parse_ethernet(r->data, r->end, bpf_htons(ETH_P_IP));
	if (!r->p.ip)
		return pass_or_silence_arp(r, VERDICT_NOT_IPV4);
	outcome = parse_ipv4(r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return PASS(outcome);
	record_packet(r->data, r->end, &r->p);
	if (r->p.ip + r->p.length > bpf_xdp_get_buff_len(r->ctx))
		return PASS(VERDICT_MALFORMED); /* cut short */
	r->vip = find_vip(r->s, r->p.destination);
	if (!r->vip)
		return PASS(VERDICT_NOT_OURS);
	record(STEP_VIP, r->vip->flags);
	if (is_martian(r->p.source))
		return PASS(VERDICT_MARTIAN);
	if (r->vip->flags) {
		outcome = admit(r);
		if (outcome != CONTINUE)
			return outcome;
	}
	if (r->p.protocol != IPPROTO_TCP && r->p.protocol != IPPROTO_UDP) {
		if (r->p.protocol == IPPROTO_ICMP && !r->p.fragment)
			return forward_icmp_error(r);
		return PASS(VERDICT_OTHER_PROTOCOL);
	}
	if (r->p.fragment & bpf_htons(FRAGMENT_OFFSET))
		return forward_fragment(r);
	outcome = balance_packet(r);
	if (r->p.fragment)
		note_fragment(r->s, &r->p, r->slot, r->real ? real_generation(r->real) : 0);
	return outcome;
}

/* Every packet that is not quite usual. A global function: verified alone. */
__attribute__((noinline)) int long_way(struct xdp_md *ctx)
{
	struct run r = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.slot = NO_REAL,
	};
	struct run *run = &r;
	int outcome;

	asm volatile(""
		     : "+r"(run)
		     :
		     : "memory"); /* keep it in memory: registers are few */
	outcome = decide(run);
	if (outcome == SEND)
		outcome = send_to_real(run);
	if (outcome == ANSWER)
		outcome = send_answer(run);
	return outcome;
}

SEC("xdp.frags")
int lb(struct xdp_md *ctx)
{
	/* What is recorded goes the long way, each step of which says so. */
	int outcome = RECORDS ? CONTINUE : short_way(ctx);

	record_start(ctx);
	if (outcome == CONTINUE)
		outcome = long_way(ctx);
	record_end(ctx, outcome);
	count_verdict(outcome & 0xff);
	return outcome >> 8;
}

/*
 * What time is it? User space cannot read jiffies; leases and the heartbeat
 * are deadlines in them.
 */
SEC("syscall")
int clock(__u64 *now)
{
	*now = bpf_jiffies64();
	return 0;
}
