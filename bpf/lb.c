//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * lvx: LVS direct routing in XDP. Table of contents:
 *
 *   types.h     what user space and the packet path share; enum verdict
 *   maps.h      every map and why it is of its kind
 *   config.h    what is fixed at load time
 *   parse.h     frame -> struct packet
 *   listen.h    address, protocol, port -> service
 *   flow.h      the flow table: which real a connection belongs to
 *   template.h  persistence
 *   select.h    schedulers
 *   filter.h    deny and allow lists
 *   icmp.h      errors that quote a flow
 *   fragment.h  fragments
 *   forward.h   the frame's way out
 *   answer.h    ICMP that we send ourselves
 *   stats.h     counting
 *   fast.h      the short way of nearly every packet
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
#include "parse.h"
#include "stats.h"
#include "listen.h"
#include "flow.h"
#include "template.h"
#include "select.h"
#include "filter.h"
#include "forward.h"
#include "answer.h"
#include "icmp.h"
#include "fragment.h"
#include "fast.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What one run carries from step to step. */
struct run {
	struct xdp_md *ctx;
	void *data;
	void *end;
	struct settings *s;
	struct interface *me;
	struct vip *vip;
	struct packet p;
	__u64 key;
	__u64 hash;
	__u64 now;
	struct real *real; /* with SEND: where to, */
	__u32 slot; /* its number (NO_REAL: nowhere yet) */
	__u32 verdict; /* and what it is called; with ANSWER too */
	__u32 connections; /* 1 if the packet opens one */
	__u8 type; /* with ANSWER: of the ICMP message */
	__u8 code;
	__u16 mtu;
};

/*
 * Besides verdicts and CONTINUE: what is left to do, so that each is done in
 * one place. (Inlined wherever it is decided it would be verified there too.)
 */
#define SEND (-2)
#define ANSWER (-3)

static __always_inline int send_to(struct run *r, struct real *real, __u32 slot, int verdict)
{
	r->real = real;
	r->slot = slot;
	r->verdict = verdict;
	return SEND;
}

static __always_inline int answer_with(struct run *r, __u8 type, __u8 code, __u16 mtu, __u32 verdict)
{
	r->type = type;
	r->code = code;
	r->mtu = mtu;
	r->verdict = verdict;
	return ANSWER;
}

static __always_inline int answered(struct run *r)
{
	struct answer a = {
		.ip = r->p.ip,
		.length = r->p.length,
		.verdict = r->verdict,
		.type = r->type,
		.code = r->code,
		.mtu = r->mtu,
	};

	return answer(r->ctx, &a) & 0xffff; /* never CONTINUE: the frame is another one now */
}

/* Count the packet and send it to the real, which is there. */
static __always_inline int to_real(struct run *r)
{
	struct iphdr *ip = r->data + (r->p.ip & 31); /* what the verifier has forgotten */
	struct real *real = r->real;

	count_packet(r->slot, r->p.length, r->connections);
	if (real->flags & REAL_LOCAL)
		return PASS(VERDICT_LOCAL);
	if (r->p.ttl <= 1) {
		if (r->verdict == VERDICT_ICMP_FORWARDED)
			return DROP(VERDICT_TTL_SILENT);
		return answer_with(r, ICMP_TIME_EXCEEDED, 0, 0, VERDICT_ANSWERED_TTL);
	}
	if (r->p.length > real->mtu) {
		if (r->verdict == VERDICT_ICMP_FORWARDED || !r->p.dont_fragment)
			return DROP(VERDICT_TOO_BIG);
		return answer_with(r, ICMP_UNREACHABLE, ICMP_FRAG_NEEDED, real->mtu,
				   VERDICT_ANSWERED_TOO_BIG);
	}
	if ((void *)(ip + 1) > r->end)
		return PASS(VERDICT_MALFORMED);
	rewrite(r->data, real, ip);
	return send(r->ctx, real, r->verdict);
}

static __always_inline struct service *service_at(const struct settings *s, __u32 index)
{
	__u32 at = (s->half & 1) * SERVICES + (index & (SERVICES - 1));

	return bpf_map_lookup_elem(&services, &at);
}

/* The real that persistence, or else the scheduler, gives the client. */
static __always_inline __u32 choose(struct run *r, struct service *svc, __u32 index)
{
	struct template_request rq = {};
	struct real *real;
	__u32 slot;

	if (!(svc->flags & SERVICE_PERSISTENT))
		return pick(svc, index, &r->p);
	rq.key = template_key(r->p.source, svc);
	rq.ticks = svc->persist_ticks;
	rq.create = 1;
	if (template_use(&rq) == 0)
		return template_real(rq.value);
	slot = pick(svc, index, &r->p);
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !svc->ring_size)
		return slot; /* a sorry server keeps nobody */
	rq.value = (__u64)slot << TEMPLATE_REAL_SHIFT |
		   (__u64)(real->generation & 15) << TEMPLATE_GENERATION_SHIFT;
	rq.create = 2;
	if (template_use(&rq) == 0)
		return template_real(rq.value);
	return slot;
}

/* The service of a real, if it keeps its clients. */
static __always_inline struct service *persistent(struct run *r, struct real *real)
{
	struct service *svc = service_at(r->s, real->service);

	if (!svc || !(svc->flags & SERVICE_PERSISTENT) || svc->cookie != real->cookie)
		return 0;
	return svc;
}

/*
 * A connection of a persistent client was established, or proven: his template
 * counts. Rank is TEMPLATE_ASSURED, with TEMPLATE_PROVEN or without.
 */
static __always_inline void assure(struct run *r, struct real *real, __u64 value, __u64 rank)
{
	struct service *svc = persistent(r, real);
	struct template_request rq = {
		.value = rank | (__u64)value_real(value) << TEMPLATE_REAL_SHIFT |
			 (__u64)value_generation(value) << TEMPLATE_GENERATION_SHIFT,
	};

	if (!svc || real->flags & REAL_SORRY)
		return;
	rq.key = template_key(r->p.source, svc);
	rq.ticks = svc->persist_ticks;
	if (template_use(&rq) == 0)
		return;
	/* It had lost its place to a flood, or never got one. */
	rq.create = 2;
	template_use(&rq);
}

/* Does a TCP packet without a flow open one? (tcp_conn_schedule) */
static __always_inline int opens(const struct settings *s, const struct packet *p)
{
	if (p->protocol != IPPROTO_TCP)
		return 1;
	if (p->tcp_flags & TCP_RST)
		return 0;
	return p->tcp_flags & TCP_SYN || s->flags & SETTING_SLOPPY_TCP;
}

static __always_inline int no_real(struct run *r)
{
	return answer_with(r, ICMP_UNREACHABLE, ICMP_PORT, 0, VERDICT_ANSWERED_UNREACHABLE);
}

/* No flow: find the service, choose a real, remember it, send. */
static __always_inline int new_flow(struct run *r)
{
	struct listener_request rq = {
		.half = r->s->half,
		.vip = r->key >> 48,
		.port = r->p.destination_port,
		.ranges = r->vip->ranges,
	};
	struct insertion in = { .key = r->key, .hash = r->hash };
	struct service *svc;
	struct real *real;
	__u32 index, slot, state;

	if (r->p.protocol == IPPROTO_TCP) {
		rq.range_count = r->vip->tcp_ranges;
	} else {
		rq.ranges += r->vip->tcp_ranges;
		rq.range_count = r->vip->udp_ranges;
	}
	index = find_service(&rq);
	if (index == NO_SERVICE)
		return PASS(VERDICT_NO_LISTENER);
	svc = service_at(r->s, index);
	if (!svc)
		return PASS(VERDICT_NO_LISTENER);
	if (svc->flags & SERVICE_FILTERED && denied(r->p.source, svc->cookie, r->s->flags))
		return DROP(VERDICT_DENIED);
	if (!opens(r->s, &r->p))
		return PASS(VERDICT_NO_FLOW);
	slot = choose(r, svc, index & (SERVICES - 1));
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !(real->flags & REAL_THERE))
		return no_real(r);
	r->connections = 1;
	if (svc->flags & SERVICE_ONE_PACKET && r->p.protocol == IPPROTO_UDP)
		return send_to(r, real, slot, VERDICT_FORWARDED);
	state = STATE_UDP;
	if (r->p.protocol == IPPROTO_TCP)
		state = next_state(STATE_EMPTY, r->p.tcp_flags);
	in.value = flow_value(r->p.destination_port, slot, real->generation, state);
	if (flow_insert(&in))
		return DROP(VERDICT_TABLE_BUSY);
	if (value_real(in.value) != slot) {
		slot = value_real(in.value);
		real = bpf_map_lookup_elem(&reals, &slot);
		if (!real)
			return no_real(r);
	}
	if (state == STATE_ESTABLISHED)
		assure(r, real, in.value, TEMPLATE_ASSURED);
	return send_to(r, real, slot, VERDICT_FORWARDED);
}

/* Is a TCP packet of a live flow the start of another? (is_new_conn_expected) */
static __always_inline int opens_another(struct run *r, struct real *real, __u64 value)
{
	return r->p.tcp_flags & TCP_SYN && starts_anew(value_state(value)) && !persistent(r, real);
}

/* The flow's real is not there any more. */
static __always_inline int gone(struct run *r, struct real *real, __u64 *place, __u64 value)
{
	if (r->p.protocol == IPPROTO_TCP && r->s->flags & SETTING_KEEP_NODEST &&
	    !opens_another(r, real, value))
		return DROP(VERDICT_REAL_AWAY);
	flow_end(place, value);
	if (r->p.protocol != IPPROTO_TCP || r->p.tcp_flags & TCP_SYN ||
	    r->s->flags & SETTING_SLOPPY_TCP)
		return CONTINUE; /* schedule it anew */
	return PASS(VERDICT_REAL_GONE);
}

/* Must this packet be scheduled anew although its flow is alive? */
static __always_inline int reschedule(struct run *r, struct real *real, __u64 value)
{
	if (r->p.protocol != IPPROTO_TCP)
		return real->flags & REAL_SILENT;
	if (!(r->p.tcp_flags & TCP_SYN))
		return 0;
	return opens_another(r, real, value) ||
	       (!(r->s->flags & SETTING_KEEP_NODEST) && !(real->flags & REAL_USABLE));
}

/* A flow was found: CONTINUE if it has ended and the packet opens another. */
static __always_inline int known_flow(struct run *r, __u64 *place, __u64 value)
{
	__u32 slot = value_real(value), state = STATE_UDP;
	struct real *real = bpf_map_lookup_elem(&reals, &slot);

	if (!real)
		return CONTINUE;
	if (real->flags & REAL_FILTERED && denied(r->p.source, real->cookie, r->s->flags))
		return DROP(VERDICT_DENIED);
	if (!(real->flags & REAL_THERE) || real->generation != value_generation(value))
		return gone(r, real, place, value);
	if (reschedule(r, real, value)) {
		flow_end(place, value);
		return CONTINUE;
	}
	if (r->p.protocol == IPPROTO_TCP)
		state = next_state(value_state(value), r->p.tcp_flags);
	flow_seen(place, value, state, r->now);
	if (state == STATE_ESTABLISHED && value_state(value) != STATE_ESTABLISHED)
		assure(r, real, value, TEMPLATE_ASSURED);
	else if (state == STATE_ESTABLISHED && !(value & PROVEN))
		assure(r, real, value, TEMPLATE_RANK);
	return send_to(r, real, slot, VERDICT_FORWARDED);
}

/* The flow of r->key, live or not; its place in *place. */
static __always_inline __u64 look_up(struct run *r, __u64 **place)
{
	struct flow_words *set = flow_set(first_set(r->hash, flow_sets));
	__u64 value;

	if (!set)
		return 0;
	value = find_in(set, r->key, r->p.destination_port, place);
	if (value)
		return value;
	set = flow_set(second_set(r->hash, flow_sets));
	if (!set)
		return 0;
	return find_in(set, r->key, r->p.destination_port, place);
}

static __always_inline void identify(struct run *r, __u16 number)
{
	r->key = flow_key(r->p.source, r->p.source_port, number);
	r->hash = flow_hash(r->s, r->p.source, r->p.source_port, r->p.destination, r->p.destination_port);
	r->now = clock_now(r->s);
}

/* TCP and UDP. */
static __always_inline int balance(struct run *r)
{
	__u16 number = r->p.protocol == IPPROTO_TCP ? r->vip->tcp : r->vip->udp;
	__u32 ended = NO_REAL;
	__u64 *place = 0;
	__u64 value;
	int outcome;

	outcome = parse_ports(r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return PASS(outcome);
	if (!number)
		return PASS(VERDICT_NO_LISTENER);
	identify(r, number);
	value = look_up(r, &place);
	if (value && place && !flow_expired(r->s, value, r->now)) {
		outcome = known_flow(r, place, value);
		if (outcome != CONTINUE)
			return outcome;
		/*
		 * It still counts while the scheduler chooses: the kernel
		 * leaves its end to a timer (ip_vs_conn_expire_now).
		 */
		ended = value_real(value);
		load_add(ended, STATE_CLOSE, 1);
	}
	outcome = new_flow(r);
	if (ended != NO_REAL)
		load_add(ended, STATE_CLOSE, -1);
	return outcome;
}

/* An ICMP error: to the real of the flow that it quotes. */
static __always_inline int relay_error(struct run *r)
{
	__u64 *place = 0;
	__u64 value;
	struct real *real;
	__u16 number;
	__u32 slot;
	int outcome;

	outcome = parse_quoted(r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return outcome;
	number = r->p.protocol == IPPROTO_TCP ? r->vip->tcp : r->vip->udp;
	if ((r->p.protocol != IPPROTO_TCP && r->p.protocol != IPPROTO_UDP) || !number)
		return PASS(VERDICT_ICMP_NO_FLOW);
	identify(r, number);
	value = look_up(r, &place);
	if (!value || flow_expired(r->s, value, r->now))
		return PASS(VERDICT_ICMP_NO_FLOW);
	slot = value_real(value);
	real = bpf_map_lookup_elem(&reals, &slot);
	if (!real || !(real->flags & REAL_THERE) || real->generation != value_generation(value))
		return PASS(VERDICT_ICMP_NO_FLOW);
	return send_to(r, real, slot, VERDICT_ICMP_FORWARDED);
}

/* A fragment that is not the first: after its first. */
static __always_inline int follow_fragment(struct run *r)
{
	struct fragment_key key = fragment_of(&r->p);
	struct fragment *note = bpf_map_lookup_elem(&fragments, &key);
	struct real *real;

	/* An old note is of another datagram: identifications come round. */
	if (note && (__u16)((__u16)clock_now(r->s) - note->tick) <= FRAGMENT_SECONDS) {
		if (note->real == NO_REAL)
			return PASS(VERDICT_NO_LISTENER);
		real = bpf_map_lookup_elem(&reals, &note->real);
		if (real && real->flags & REAL_THERE && real->generation == note->generation)
			return send_to(r, real, note->real, VERDICT_FORWARDED);
	}
	if (hold_fragment(r->ctx, r->s, &key))
		return DROP(VERDICT_FRAGMENT_LOST);
	return DROP(VERDICT_FRAGMENT_HELD);
}

/*
 * Standby, peers, lease: what a flagged VIP has to be asked first. What a
 * peer sends to a director that is a real server is meant for that: it has
 * been balanced, or it is a check through the VIP, with the peer's own
 * address. A director without a daemon is still a real server, so this comes
 * before the lease.
 */
static __always_inline int may_serve(struct run *r)
{
	__u32 lease = r->vip->lease & (LEASES - 1);
	__u64 *until;

	if (r->vip->flags & VIP_STANDBY)
		return PASS(VERDICT_STANDBY);
	if (r->vip->flags & VIP_PEERS) {
		__u64 from = *(__u64 *)(r->data + 4) >> 16;

#pragma unroll
		for (int i = 0; i < PEERS; i++) {
			struct peer *peer = &r->me->peer[i];
			__u64 mac = *(__u64 *)peer->mac;

			if (mac && mac == from)
				return PASS(VERDICT_FROM_PEER);
		}
	}
	if (r->vip->flags & VIP_LEASED) {
		until = bpf_map_lookup_elem(&leases, &lease);
		if (!until || bpf_jiffies64() > *until)
			return DROP(VERDICT_LEASE_OVER);
	}
	return CONTINUE;
}

static __always_inline __be32 four_bytes(const __u8 *at)
{
	return at[0] | at[1] << 8 | at[2] << 16 | (__u32)at[3] << 24;
}

/*
 * Frames that are not balanced go to the kernel, but for one kind: a request
 * "who has VIP" while another director owns the VIP, or after the lease ran
 * out. The kernel would answer as long as the address is on any interface,
 * and two hosts would. An announcement (sender is target) asks nothing.
 */
static __always_inline int bystander(struct run *r, int verdict)
{
	struct arp *arp = r->data + ETHER;
	__u64 *until;
	__u32 lease;

	if (*(__be16 *)(r->data + 12) != bpf_htons(ETH_P_ARP) || (void *)(arp + 1) > r->end ||
	    arp->operation != bpf_htons(ARP_REQUEST) ||
	    four_bytes(arp->sender) == four_bytes(arp->target))
		return PASS(verdict);
	r->vip = find_vip(r->s, four_bytes(arp->target));
	if (!r->vip)
		return PASS(verdict);
	if (r->vip->flags & VIP_STANDBY)
		return DROP(VERDICT_ARP_SILENCED);
	if (!(r->vip->flags & VIP_LEASED))
		return PASS(verdict);
	lease = r->vip->lease & (LEASES - 1);
	until = bpf_map_lookup_elem(&leases, &lease);
	if (!until || bpf_jiffies64() > *until)
		return DROP(VERDICT_ARP_SILENCED);
	return PASS(verdict);
}

static __always_inline int route(struct run *r)
{
	__u32 zero = 0, slot = interface_slot;
	int outcome;

	if (r->data + ETHER + sizeof(struct iphdr) > r->end)
		return PASS(VERDICT_MALFORMED);
	r->me = bpf_map_lookup_elem(&interfaces, &slot);
	r->s = bpf_map_lookup_elem(&settings, &zero);
	if (!r->me || !r->s)
		return PASS(VERDICT_NOT_OUR_MAC);
	if (!for_us(r->data, r->me))
		return bystander(r, VERDICT_NOT_OUR_MAC);
	r->p.ip = parse_ethernet(r->data, r->end);
	if (!r->p.ip)
		return bystander(r, VERDICT_NOT_IPV4);
	outcome = parse_ipv4(r->data, r->end, &r->p);
	if (outcome != CONTINUE)
		return PASS(outcome);
	if (r->p.ip + r->p.length > bpf_xdp_get_buff_len(r->ctx))
		return PASS(VERDICT_MALFORMED); /* cut short */
	r->vip = find_vip(r->s, r->p.destination);
	if (!r->vip)
		return PASS(VERDICT_NOT_OURS);
	if (martian(r->p.source))
		return PASS(VERDICT_MALFORMED);
	if (r->vip->flags) {
		outcome = may_serve(r);
		if (outcome != CONTINUE)
			return outcome;
	}
	if (r->p.protocol != IPPROTO_TCP && r->p.protocol != IPPROTO_UDP) {
		if (r->p.protocol == IPPROTO_ICMP && !r->p.fragment)
			return relay_error(r);
		return PASS(VERDICT_OTHER_PROTOCOL);
	}
	if (r->p.fragment & bpf_htons(FRAGMENT_OFFSET))
		return follow_fragment(r);
	outcome = balance(r);
	if (r->p.fragment)
		note_fragment(r->s, &r->p, r->slot, r->real ? r->real->generation : 0);
	return outcome;
}

/* Every packet that is not quite usual. A global function: verified alone. */
__attribute__((noinline)) int handle(struct xdp_md *ctx)
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
	outcome = route(run);
	if (outcome == SEND)
		outcome = to_real(run);
	if (outcome == ANSWER)
		outcome = answered(run);
	return outcome;
}

SEC("xdp.frags")
int lb(struct xdp_md *ctx)
{
	int outcome = fast(ctx);

	if (outcome == CONTINUE)
		outcome = handle(ctx);
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
